/* Says who it runs as, and prints the files it is given. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int count, char **names)
{
    const char *greeting = getenv("GREETING");
    char line[256];

    printf("%s, I am user %d of group %d.\n", greeting ? greeting : "Hello", (int)getuid(), (int)getgid());
    for (int i = 1; i < count; i++) {
        FILE *file = fopen(names[i], "r");
        if (!file) {
            perror(names[i]);
            return 1;
        }
        while (fgets(line, sizeof line, file))
            fputs(line, stdout);
        fclose(file);
    }
    return 0;
}
