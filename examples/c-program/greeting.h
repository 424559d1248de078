/* Greets somebody on standard output, and says who runs it and when it was built. */
void greet(const char *name);
