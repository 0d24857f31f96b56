// Touches memory at random: `mebibytes` of it, eight bytes at a time, each place found from what was read at the last one. First the pages are
// touched in order, which is not timed.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

int main(int argc, char** argv) {
  const uint64_t mebibytes = argc > 1 ? strtoull(argv[1], 0, 0) : 3072, touches = argc > 2 ? strtoull(argv[2], 0, 0) : 20000000;
  const uint64_t words = mebibytes << 17;
  uint64_t* const memory = mmap(0, words * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return perror("mmap"), 1;
  for (uint64_t i = 0; i < words; i += 512) memory[i] = i;
  uint64_t state = 1, sum = 0;
  // Once over the pages at random: what is measured is the steady state.
  for (int pass = 0; pass < 2; pass++) {
    const double start = seconds();
    for (uint64_t i = 0; i < touches; i++) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      uint64_t* const at = memory + (state >> 20) % words;
      sum += *at;
      *at = sum ^ state;
      state += sum & 1;
    }
    const double took = seconds() - start;
    if (pass) printf("randmem %.2f %016llx\n", took, (unsigned long long)sum);
  }
  return 0;
}
