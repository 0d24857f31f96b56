// Writes to `megabytes` of memory at a steady rate of `rate` MB/s, a word a page, in steps of 10 ms, and says how it keeps up.
// usage: dirty MEGABYTES RATE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int count, char** words) {
  const size_t bytes = strtoull(words[1], 0, 10) << 20, rate = strtoull(words[2], 0, 10) * 1000000, page = 4096;
  char* memory = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  unsigned long x = 88172645463325252ul;
  for (size_t i = 0; i < bytes / 8; i++) {  // no page is like another, and none packs well
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    ((unsigned long*)memory)[i] = i & 1 ? x : i;
  }
  printf("FILLED\n");
  fflush(stdout);
  size_t at = 0;
  double begin = now(), written = 0;
  for (unsigned long n = 1; rate; n++) {
    while (written < (now() - begin) * (double)rate) {
      *(volatile unsigned long*)(memory + at) += n;
      at = at + page < bytes ? at + page : 0;
      written += page;
    }
    struct timespec pause = {0, 10000000};
    nanosleep(&pause, 0);
  }
  for (;;) {
    struct timespec pause = {1, 0};
    nanosleep(&pause, 0);
  }
}
