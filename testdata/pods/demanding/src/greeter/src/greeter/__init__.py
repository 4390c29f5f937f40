def main():
    print("greetings")
