/* An integer program with CoreMark's mix, written for this tree: linked lists, integer matrix, a state machine over text, CRC-16.
   usage: intmix ROUNDS; prints "intmix SECONDS CHECKSUM". */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct node { struct node *next; int16_t value, key; };
enum { nodes = 96, side = 24, text_length = 400 };
static struct node pool[nodes];
static int16_t a[side][side], b[side][side];
static int32_t c[side][side];
static char text[text_length + 1];

static uint16_t crc16(uint32_t value, uint16_t crc) {
  for (int i = 0; i < 32; i++) {
    unsigned bit = (value ^ crc) & 1;
    value >>= 1;
    crc >>= 1;
    if (bit) crc ^= 0xa001;
  }
  return crc;
}

static struct node *merge(struct node *x, struct node *y, int by_key) {
  struct node head, *tail = &head;
  while (x && y) {
    int take_x = by_key ? x->key <= y->key : x->value <= y->value;
    if (take_x) { tail->next = x; x = x->next; } else { tail->next = y; y = y->next; }
    tail = tail->next;
  }
  tail->next = x ? x : y;
  return head.next;
}
static struct node *sort(struct node *list, int by_key) {
  if (!list || !list->next) return list;
  struct node *slow = list, *fast = list->next;
  while (fast && fast->next) { slow = slow->next; fast = fast->next->next; }
  struct node *half = slow->next;
  slow->next = 0;
  return merge(sort(list, by_key), sort(half, by_key), by_key);
}
static struct node *reverse(struct node *list) {
  struct node *done = 0;
  while (list) { struct node *next = list->next; list->next = done; done = list; list = next; }
  return done;
}
static uint16_t lists(uint32_t seed, uint16_t crc) {
  for (int i = 0; i < nodes; i++) {
    seed = seed * 1103515245u + 12345u;
    pool[i].value = (int16_t)(seed >> 16);
    pool[i].key = (int16_t)i;
    pool[i].next = i + 1 < nodes ? &pool[i + 1] : 0;
  }
  struct node *list = sort(pool, 0);
  crc = crc16((uint32_t)list->value, crc);
  list = reverse(list);
  int found = 0;
  for (int want = 0; want < 16; want++)
    for (struct node *n = list; n; n = n->next)
      if (n->key == want * 5) { found += n->value; break; }
  list = sort(list, 1);
  return crc16((uint32_t)found + (uint32_t)list->value, crc);
}
static uint16_t matrix(uint32_t seed, uint16_t crc) {
  for (int i = 0; i < side; i++)
    for (int j = 0; j < side; j++) {
      seed = seed * 1103515245u + 12345u;
      a[i][j] = (int16_t)(seed >> 20);
      b[i][j] = (int16_t)(seed >> 12 & 0xff);
    }
  for (int i = 0; i < side; i++)
    for (int j = 0; j < side; j++) {
      int32_t sum = 0;
      for (int k = 0; k < side; k++) sum += (a[i][k] * b[k][j]) >> 2 & 0x1ffff;
      c[i][j] = sum;
    }
  int32_t total = 0, last = 0;
  for (int i = 0; i < side; i++)
    for (int j = 0; j < side; j++) {
      total += c[i][j] > last ? 10 : 1;
      last = c[i][j];
    }
  return crc16((uint32_t)total, crc);
}
static uint16_t states(uint32_t seed, uint16_t crc) {
  static const char letters[] = "0123456789+-.eE,,,,x";
  uint32_t count[8] = {0};
  for (int i = 0; i < text_length; i++) { seed = seed * 1103515245u + 12345u; text[i] = letters[(seed >> 16) % 20]; }
  enum { start, sign, integer, point, exponent, exponent_sign, number, invalid } s = start;
  for (const char *p = text; *p; p++) {
    if (*p == ',') { count[s]++; s = start; continue; }
    int digit = *p >= '0' && *p <= '9';
    switch (s) {
      case start: s = digit ? integer : *p == '+' || *p == '-' ? sign : *p == '.' ? point : invalid; break;
      case sign: s = digit ? integer : *p == '.' ? point : invalid; break;
      case integer: s = digit ? integer : *p == '.' ? point : *p == 'e' || *p == 'E' ? exponent : invalid; break;
      case point: s = digit ? point : *p == 'e' || *p == 'E' ? exponent : invalid; break;
      case exponent: s = digit ? number : *p == '+' || *p == '-' ? exponent_sign : invalid; break;
      case exponent_sign: s = digit ? number : invalid; break;
      case number: s = digit ? number : invalid; break;
      case invalid: break;
    }
  }
  for (int i = 0; i < 8; i++) crc = crc16(count[i], crc);
  return crc;
}

int main(int argc, char **argv) {
  long rounds = argc > 1 ? atol(argv[1]) : 1000;
  struct timespec t0, t1;
  clock_gettime(CLOCK_MONOTONIC, &t0);
  uint16_t crc = 0xffff;
  for (long i = 0; i < rounds; i++) {
    crc = lists((uint32_t)i, crc);
    crc = matrix((uint32_t)i + crc, crc);
    crc = states((uint32_t)i ^ crc, crc);
  }
  clock_gettime(CLOCK_MONOTONIC, &t1);
  printf("intmix %.4f %04x\n", (double)(t1.tv_sec - t0.tv_sec) + (double)(t1.tv_nsec - t0.tv_nsec) / 1e9, crc);
  return 0;
}
