// Keeps a disk and memory in step, and looks whether they still are: each slot of the disk and each page of a region of memory holds a number
// that a table in memory knows. A machine whose RAM and disk are not of one moment, or that lost a write of either, is found out at once.
// usage: keeper DEVICE FIRST_SLOT SLOTS MEGABYTES STEPS_FILE      says "keeper: BAD …" and ends
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { size = 4096, words = size / 8 };

static uint64_t seed;
static uint64_t random_word(void) {
  seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
  return seed;
}
static void fill(uint64_t* block, uint64_t stamp) {
  for (int i = 0; i < words; i++) block[i] = stamp;
}
static void look(const uint64_t* block, uint64_t stamp, const char* what, uint64_t where) {
  for (int i = 0; i < words; i++) {
    if (block[i] == stamp) continue;
    printf("keeper: BAD %s %llu holds %llu, not %llu, at word %d\n", what, (unsigned long long)where, (unsigned long long)block[i], (unsigned long long)stamp, i);
    fflush(stdout);
    exit(1);
  }
}
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int count, char** arguments) {
  if (count != 6) return 2;
  const int disk = open(arguments[1], O_RDWR | O_DIRECT);
  if (disk < 0) return 3;
  const uint64_t first = strtoull(arguments[2], 0, 10), slots = strtoull(arguments[3], 0, 10), pages = strtoull(arguments[4], 0, 10) << 8;
  uint64_t* const on_disk = calloc(slots, 8);
  uint64_t* const in_memory = calloc(pages, 8);
  uint64_t* const memory = mmap(0, pages * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  uint64_t* block;
  if (posix_memalign((void**)&block, size, size)) return 4;
  seed = 88172645463325252u + first;
  uint64_t stamp = 1;
  for (uint64_t i = 0; i < slots; i++) {
    fill(block, on_disk[i] = ++stamp);
    if (pwrite(disk, block, size, (off_t)((first + i) * size)) != size) return 5;
  }
  double said = 0, time = now();
  for (uint64_t step = 0;; step++) {
    const uint64_t slot = random_word() % slots;
    if (pread(disk, block, size, (off_t)((first + slot) * size)) != size) return 6;
    look(block, on_disk[slot], "slot", slot);
    fill(block, ++stamp);
    if (pwrite(disk, block, size, (off_t)((first + slot) * size)) != size) return 7;
    on_disk[slot] = stamp;
    for (int i = 0; i < 40; i++) {
      const uint64_t page = random_word() % pages;
      look(memory + page * words, in_memory[page], "page", page);
      fill(memory + page * words, in_memory[page] = ++stamp);
    }
    const double next = now();
    if (next < time) {
      printf("keeper: BAD the clock went back\n");
      fflush(stdout);
      return 1;
    }
    time = next;
    if (now() - said < 0.1) continue;
    said = now();
    char text[32];
    const int n = snprintf(text, sizeof text, "%llu\n", (unsigned long long)step);
    char fresh[256];
    snprintf(fresh, sizeof fresh, "%s.new", arguments[5]);
    const int file = open(fresh, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || write(file, text, (size_t)n) != n) return 8;
    close(file);
    rename(fresh, arguments[5]);
  }
}
