package main

import "os"

func main() {
	if err := os.WriteFile("/srv/from-go", []byte("text\n"), 0o600); err != nil {
		panic(err)
	}
	if err := os.Chown("/srv/from-go", 4100, 4200); err != nil {
		panic(err)
	}
}
