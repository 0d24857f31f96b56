/* The rows of tests/bench/cpu, written for this tree. usage: rows NAME COUNT; prints "NAME SECONDS CHECKSUM".
   Each row is a function from a count to a checksum. */
#define _GNU_SOURCE
#include <math.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef uint64_t u64;
static u64 random_state = 88172645463325252u;
static u64 next_random(void) { random_state ^= random_state << 13; random_state ^= random_state >> 7; return random_state ^= random_state << 17; }
static char *self;
static unsigned char *bytes;  /* 64 MiB, on demand */

/* ---- integer */
static u64 sieve(long n) {
  static unsigned char composite[65536];
  u64 sum = 0;
  for (long r = 0; r < n; r++) {
    memset(composite, 0, sizeof composite);
    for (unsigned i = 2; i < 256; i++)
      if (!composite[i]) for (unsigned k = i * i; k < sizeof composite; k += i) composite[k] = 1;
    for (unsigned i = 2; i < sizeof composite; i++) sum += !composite[i];
  }
  return sum;
}
static __attribute__((noinline)) u64 fibonacci(unsigned n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
static u64 fib(long n) { u64 sum = 0; for (long i = 0; i < n; i++) { unsigned k = 24; __asm__ volatile("" : "+r"(k)); sum += fibonacci(k); } return sum; }
static u64 interp(long n) {  /* a byte-code machine: sums i * 3 ^ i, i counting down */
  static const unsigned char code[] = {0, 1, 3, 2, 4, 5, 6, 7, 0, 8};
  static const void *const op[] = {&&load, &&triple, &&mix, &&push, &&pop, &&add, &&count, &&branch, &&nothing};
  u64 a = 0, b = 0, i, sum = 0, stack[4];
  unsigned sp = 0, pc = 0;
  i = (u64)n;
#define NEXT goto *op[code[pc++]]
  NEXT;
load: a = i; NEXT;
triple: a *= 3; NEXT;
push: stack[sp++ & 3] = a; NEXT;
mix: a ^= i; NEXT;
pop: b = stack[--sp & 3]; NEXT;
add: sum += a + b; NEXT;
count: i--; NEXT;
branch: if (i) { pc = 0; NEXT; } return sum;
nothing: NEXT;
}
static int compare(const void *a, const void *b) { const u64 x = *(const u64 *)a, y = *(const u64 *)b; return x < y ? -1 : x > y; }
static u64 sort(long n) {
  static u64 keys[20000];
  u64 sum = 0;
  for (long r = 0; r < n; r++) {
    for (int i = 0; i < 20000; i++) keys[i] = next_random();
    qsort(keys, 20000, 8, compare);
    sum ^= keys[100];
  }
  return sum;
}
/* ---- memory */
static u64 chase_over(long n, u64 size) {
  u64 *const p = (u64 *)bytes, count = size / 64;
  for (u64 i = 0; i < count; i++) p[i * 8] = i;
  for (u64 i = count - 1; i; i--) { const u64 k = next_random() % i, t = p[i * 8]; p[i * 8] = p[k * 8]; p[k * 8] = t; }
  u64 at = 0;
  for (long i = 0; i < n; i++) at = p[at * 8];
  return at;
}
static u64 chase(long n) { return chase_over(n, 256 * 1024); }
static u64 chase_far(long n) { return chase_over(n, 32 * 1024 * 1024); }
static u64 strops(long n) {
  static char text[4096], copy[8192];
  for (int i = 0; i < 4000; i++) text[i] = (char)('a' + i % 23);
  u64 sum = 0;
  for (long i = 0; i < n; i++) {
    strcpy(copy, text + i % 64);
    sum += strlen(copy) + (u64)(strchr(copy, 'z') != 0) + (u64)(memcmp(copy, text + i % 64, 3000) == 0);
    memmove(copy + 3, copy, 2000);
    sum += (unsigned char)copy[77 + i % 100];
  }
  return sum;
}
/* ---- floating point */
static u64 bits(double d) { u64 u; memcpy(&u, &d, 8); return u; }
static u64 nbody(long n) {
  static double p[5][3] = {{0, 0, 0}, {4.84, -1.16, -.10}, {8.34, 4.12, -.4}, {12.8, -15.1, -.22}, {15.3, -25.9, .17}}, v[5][3];
  static const double m[5] = {39.4, .037, .011, .0017, .002};
  for (long s = 0; s < n; s++) {
    for (int i = 0; i < 5; i++)
      for (int j = i + 1; j < 5; j++) {
        double d[3], r = 0;
        for (int k = 0; k < 3; k++) d[k] = p[i][k] - p[j][k], r += d[k] * d[k];
        const double f = .001 / (r * sqrt(r));
        for (int k = 0; k < 3; k++) v[i][k] -= d[k] * m[j] * f, v[j][k] += d[k] * m[i] * f;
      }
    for (int i = 0; i < 5; i++) for (int k = 0; k < 3; k++) p[i][k] += .001 * v[i][k];
  }
  return bits(p[1][0] + v[2][1]);
}
static u64 x87(long n) {
  long double x = 1, sum = 0;
  for (long i = 1; i <= n; i++) { x = x * 1.0000001L + 1.0L / (long double)i; sum += sqrtl(x) - x / 3; }
  return bits((double)sum);
}
/* ---- SIMD */
__attribute__((target("avx2,fma"))) static u64 saxpy(long n) {
  static float x[4096], y[4096];
  for (int i = 0; i < 4096; i++) x[i] = (float)i, y[i] = 1;
  for (long r = 0; r < n; r++) {
    const float a = (float)r * 1e-6f;
#pragma clang loop vectorize(enable) interleave(enable)
    for (int i = 0; i < 4096; i++) y[i] = __builtin_fmaf(a, x[i], y[i]);
  }
  return bits(y[4095]);
}
/* ---- system */
static u64 syscalls(long n) { u64 sum = 0; for (long i = 0; i < n; i++) sum += (u64)syscall(SYS_getppid) != 0; return sum; }
static u64 fork_exec(long n) {
  for (long i = 0; i < n; i++) {
    const pid_t child = fork();
    if (!child) { execl(self, self, "nothing", "0", (char *)0); _exit(9); }
    int status = 0;
    waitpid(child, &status, 0);
    if (status) return 1;
  }
  return 0;
}
static u64 pipes(long n) {
  int to[2], from[2];
  if (pipe(to) || pipe(from)) return 1;
  const pid_t child = fork();
  char c = 0;
  if (!child) { while (read(to[0], &c, 1) == 1 && c != 'q') if (write(from[1], &c, 1) != 1) break; _exit(0); }
  u64 sum = 0;
  for (long i = 0; i < n; i++) { c = 'x'; if (write(to[1], &c, 1) != 1 || read(from[0], &c, 1) != 1) return 2; sum += (u64)c; }
  c = 'q';
  if (write(to[1], &c, 1) != 1) return 3;
  waitpid(child, 0, 0);
  return sum;
}
static u64 pfault(long n) {
  for (long i = 0; i < n; i++) {
    char *const p = mmap(0, 256 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int k = 0; k < 256; k++) p[k * 4096] = 1;
    munmap(p, 256 * 4096);
  }
  return 0;
}
static u64 smc(long n) {
  unsigned char *const code = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  u64 sum = 0;
  for (long i = 0; i < n; i++) {
    code[0] = 0xb8; memcpy(code + 1, &(int){(int)i}, 4); code[5] = 0xc3;
    sum += (u64)((int (*)(void))code)();
  }
  return sum;
}
static u64 atomics(long n) { static u64 word; for (long i = 0; i < n; i++) __atomic_fetch_add(&word, (u64)i, __ATOMIC_SEQ_CST), __atomic_exchange_n(&word, word ^ 1, __ATOMIC_SEQ_CST); return word; }
static u64 nothing(long n) { return (u64)n; }

static const struct { const char *name; u64 (*run)(long); } rows[] = {
    {"sieve", sieve}, {"fib", fib}, {"interp", interp}, {"sort", sort}, {"chase", chase}, {"chase_far", chase_far}, {"strops", strops},
    {"nbody", nbody}, {"x87", x87}, {"saxpy", saxpy}, {"syscall", syscalls}, {"fork", fork_exec}, {"pipe", pipes}, {"pfault", pfault},
    {"smc", smc}, {"atomic", atomics}, {"nothing", nothing}};

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  self = argv[0];
  for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
    if (strcmp(argv[1], rows[i].name)) continue;
    if (rows[i].run == nothing) return 0;
    if (rows[i].run == chase || rows[i].run == chase_far) {
      bytes = mmap(0, 64 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    const u64 sum = rows[i].run(atol(argv[2]));
    clock_gettime(CLOCK_MONOTONIC, &b);
    printf("%s %.4f %llx\n", argv[1], (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9, (unsigned long long)sum);
    return 0;
  }
  return 2;
}
