#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    printf("Hello from a C program, %s! I am user %d in a microVM.\n", argc > 1 ? argv[1] : "nobody", (int)getuid());
    return 0;
}
