#include "greeting.h"

#include <stdio.h>
#include <unistd.h>

void greet(const char *name)
{
    printf("Hello from a C program, %s! I am user %d in a microVM.\n", name, (int)getuid());
    printf("%s was compiled on " __DATE__ " at " __TIME__ ".\n", __FILE__);
}
