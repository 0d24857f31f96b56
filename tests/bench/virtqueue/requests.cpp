// Requests of 4 KiB to a virtio-blk device as its driver makes them, without a guest: through the virtqueue, the format and the file's
// engine. usage: bench_virtqueue IMAGE FORMAT DEPTH REQUESTS read|write; prints requests a second and microseconds of processor a request,
// in which the driver's side and all threads of the process are counted.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "block/core/backend.h"
#include "tests/unit/hw/bench.h"
#include "tests/unit/hw/virtio/driver.h"

namespace vmm::test {
namespace {

// In the bench's 64 KiB of RAM: the driver's rings at 1000h; a table of three descriptors, a header and a status for each request; data
// pages that they share.
constexpr u64 tables_at = 0x4000, headers_at = 0x5000, statuses_at = 0x5800, data_at = 0x6000, page_bytes = 4096;
constexpr u32 data_pages = 8;
constexpr u16 queue_size = 64;
constexpr u32 type_read = 0, type_write = 1;
constexpr u16 descriptor_next = 1, descriptor_write = 2, descriptor_indirect = 4;

double processor_seconds() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

struct Bench {
  DeviceBench bench;
  EventLoop& loop = bench.machine().main_loop();
  block::BackendRef backend;
  u8* ram = bench.machine().memory().page(GuestPhys{0}).host;
  u64 pages = 0, seed = 1;

  Bench(const char* image, const char* format) {
    Value file = Value::object();
    file.set("driver", "file").set("filename", image).set("aio", "io_uring");
    Value tree = Value::object();
    tree.set("driver", format).set("node-name", "image").set("file", std::move(file));
    block::NodeRef node = OK(run_task(loop, block::open_node(loop, std::move(tree))));
    pages = node->length_bytes() / page_bytes;
    backend = OK(block::make_backend({.id = "disk"}));
    OK(backend->insert(std::move(node)));
    bench.add("virtio-blk-pci", {{"addr", "5"}, {"drive", "disk"}, {"num-queues", u64{1}}});
  }
  ~Bench() {
    (void)run_task(loop, backend->remove_medium());
    block::forget_backend(backend);
  }

  template <class T>
  void put(u64 at, T value) {
    std::memcpy(ram + at, &value, sizeof value);
  }
  void describe(u64 at, u64 data, u32 length, u16 flags, u16 next) {
    put<u64>(at, data), put<u32>(at + 8, length), put<u16>(at + 12, flags), put<u16>(at + 14, next);
  }
  // Request `n` of the queue, to a page at random.
  void prepare(VirtioDriver& driver, u16 n, u32 type) {
    seed = seed * 6364136223846793005 + 1442695040888963407;
    const u64 table = tables_at + 48 * n, header = headers_at + 16 * n, status = statuses_at + n;
    put<u32>(header, type), put<u32>(header + 4, 0), put<u64>(header + 8, (seed >> 33) % pages * (page_bytes / 512));
    put<u8>(status, 0xee);
    describe(table, header, 16, descriptor_next, 1);
    describe(table + 16, data_at + n % data_pages * page_bytes, page_bytes,
             static_cast<u16>(descriptor_next | (type == type_read ? descriptor_write : 0)), 2);
    describe(table + 32, status, 1, descriptor_write, 0);
    describe(driver.queue(0).descriptors + 16 * n, table, 48, descriptor_indirect, 0);
    driver.make_available(0, n);
  }

  void run(unsigned depth, u64 requests, u32 type) {
    VirtioDriver driver{bench, 0x7fff'ffff & ~hw::virtio::event_idx, queue_size};
    const u64 doorbell = driver.base() + 0x3000;
    u64 begun = 0, ended = 0;
    const auto clock = std::chrono::steady_clock::now();
    const double processor = processor_seconds();
    for (; begun < depth; begun++) prepare(driver, static_cast<u16>(begun), type);
    driver.memory().store(GuestPhys{doorbell}, 2, 0);
    while (ended < requests) {
      loop.run_once(true);
      bool more = false;
      while (const auto used = driver.used(0)) {
        const u16 n = static_cast<u16>(used->id);
        CHECK_EQ(ram[statuses_at + n], 0);
        ended++;
        if (begun == requests) continue;
        begun++, more = true;
        prepare(driver, n, type);
      }
      if (more) driver.memory().store(GuestPhys{doorbell}, 2, 0);
    }
    const double cpu = processor_seconds() - processor;
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - clock).count();
    std::printf("%.0f requests/s, %.2f us\n", static_cast<double>(requests) / seconds, cpu * 1e6 / static_cast<double>(requests));
  }
};

}  // namespace
}  // namespace vmm::test

int main(int argc, char** argv) {
  using namespace vmm::test;
  if (argc != 6) return std::fputs("usage: bench_virtqueue IMAGE FORMAT DEPTH REQUESTS read|write\n", stderr), 2;
  const unsigned long depth = std::strtoul(argv[3], nullptr, 10), requests = std::strtoul(argv[4], nullptr, 10);
  if (!depth || depth > queue_size || requests < depth) return std::fputs("DEPTH is 1 to 64, and REQUESTS at least that\n", stderr), 2;
  Bench bench{argv[1], argv[2]};
  bench.run(static_cast<unsigned>(depth), requests, std::strcmp(argv[5], "write") ? type_read : type_write);
}
