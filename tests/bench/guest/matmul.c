/* A double-precision matrix product. usage: matmul ROUNDS; prints "matmul SECONDS CHECKSUM". */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { n = 192 };
static double a[n][n], b[n][n], c[n][n];

int main(int argc, char **argv) {
  long rounds = argc > 1 ? atol(argv[1]) : 1;
  for (int i = 0; i < n; i++)
    for (int j = 0; j < n; j++) a[i][j] = (i * 7 + j) % 13 / 8.0, b[i][j] = (i + j * 5) % 11 / 4.0;
  struct timespec t0, t1;
  clock_gettime(CLOCK_MONOTONIC, &t0);
  for (long r = 0; r < rounds; r++) {
    for (int i = 0; i < n; i++)
      for (int j = 0; j < n; j++) c[i][j] = 0;
    for (int i = 0; i < n; i++)
      for (int k = 0; k < n; k++) {
        double x = a[i][k];
        for (int j = 0; j < n; j++) c[i][j] += x * b[k][j];
      }
    a[r % n][(r * 3) % n] += 1.0 / 1024;
  }
  clock_gettime(CLOCK_MONOTONIC, &t1);
  double sum = 0;
  for (int i = 0; i < n; i++)
    for (int j = 0; j < n; j++) sum += c[i][j];
  printf("matmul %.4f %.6f\n", (double)(t1.tv_sec - t0.tv_sec) + (double)(t1.tv_nsec - t0.tv_nsec) / 1e9, sum);
  return 0;
}
