#include <stdio.h>
#include <unistd.h>

int main(void) {
    printf("%u %u %u %u\n", getuid(), geteuid(), getgid(), getegid());
}
