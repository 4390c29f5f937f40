#include <stdio.h>

int f40(void), f2(void);

int main(void) {
    printf("%d\n", f40() + f2());
}
