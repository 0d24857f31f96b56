// A guest driver of virtio-pci for tests: modern registers, split and packed rings in the bench's 64 KiB of RAM.
#pragma once

#include "hw/virtio/virtio_pci.h"
#include "tests/unit/hw/bench.h"

namespace vmm::test {

struct GuestBuffer {
  u64 at = 0;
  u32 length = 0;
  bool writable = false;
};

class VirtioDriver {
 public:
  static constexpr u8 slot = 5;
  VirtioDriver(DeviceBench& bench, u64 wanted, u16 queue_size = 8) : bench_(bench), size_(queue_size) {
    const auto bars = bench.place_bars(slot);
    at_ = bars[4];
    begin(wanted);
  }
  // Reset, negotiation, all queues, DRIVER_OK.
  void begin(u64 wanted) {
    set_status(0);
    run();
    set_status(3);
    write(0, 4, 0), offered_ = read(4, 4);
    write(0, 4, 1), offered_ |= u64{read(4, 4)} << 32;
    features_ = offered_ & (wanted | hw::virtio::version_1);
    write(8, 4, 0), write(12, 4, static_cast<u32>(features_));
    write(8, 4, 1), write(12, 4, static_cast<u32>(features_ >> 32));
    set_status(11);
    queues_.assign(read(18, 2), {});
    u64 next = 0x1000;
    for (u16 n = 0; n < queues_.size() && n < 6; n++) {
      Queue& q = queues_[n];
      q = {.descriptors = next, .driver = next + 0x400, .device = next + 0x800};
      std::vector<u8> zeros(0x1000);
      memory().write(GuestPhys{next}, zeros);
      next += 0x1000;
      write(22, 2, n), write(24, 2, size_);
      write(32, 4, static_cast<u32>(q.descriptors)), write(36, 4, 0);
      write(40, 4, static_cast<u32>(q.driver)), write(44, 4, 0);
      write(48, 4, static_cast<u32>(q.device)), write(52, 4, 0);
      write(28, 2, 1);
    }
    set_status(15);
    run();
  }
  u64 offered() const { return offered_; }
  bool packed() const { return features_ & hw::virtio::ring_packed; }
  u8 status() { return static_cast<u8>(read(20, 1)); }
  void set_status(u8 status) { write(20, 1, status); }
  u8 isr() { return static_cast<u8>(bench_.machine().memory().load(GuestPhys{at_ + 0x1000}, 1)); }
  u32 config(u64 offset, unsigned size) { return static_cast<u32>(memory().load(GuestPhys{at_ + 0x2000 + offset}, size)); }
  void set_config(u64 offset, unsigned size, u32 value) { memory().store(GuestPhys{at_ + 0x2000 + offset}, size, value); }

  // Makes a request available; its id comes back with the answer.
  u16 add(unsigned n, const std::vector<GuestBuffer>& buffers) {
    Queue& q = queues_[n];
    const u16 id = q.next;
    if (packed()) {
      const u16 first = q.next;
      u16 first_flags = 0;
      for (usize i = 0; i < buffers.size(); i++) {
        u16 flags = static_cast<u16>((buffers[i].writable ? 2 : 0) | (i + 1 < buffers.size() ? 1 : 0) | (q.wrap ? 0x80 : 0x8000));
        const u64 d = q.descriptors + 16 * q.next;
        store<u64>(d, buffers[i].at), store<u32>(d + 8, buffers[i].length), store<u16>(d + 12, id);
        if (i == 0)
          first_flags = flags;
        else
          store<u16>(d + 14, flags);
        if (++q.next == size_) q.next = 0, q.wrap = !q.wrap;
      }
      store<u16>(q.descriptors + 16 * first + 14, first_flags);
      return id;
    }
    for (usize i = 0; i < buffers.size(); i++) {
      const u16 next = static_cast<u16>((q.next + 1) % size_);
      put(n, q.next, buffers[i].at, buffers[i].length, static_cast<u16>((buffers[i].writable ? 2 : 0) | (i + 1 < buffers.size() ? 1 : 0)),
          next);
      q.next = next;
    }
    make_available(n, id);
    return id;
  }
  // Split rings, by hand.
  void put(unsigned n, u16 index, u64 at, u32 length, u16 flags, u16 next) {
    const u64 d = queues_[n].descriptors + 16 * index;
    store<u64>(d, at), store<u32>(d + 8, length), store<u16>(d + 12, flags), store<u16>(d + 14, next);
  }
  void make_available(unsigned n, u16 head) {
    Queue& q = queues_[n];
    store<u16>(q.driver + 4 + 2 * (q.available % size_), head);
    store<u16>(q.driver + 2, ++q.available);
  }
  void kick(unsigned n) {
    memory().store(GuestPhys{at_ + 0x3000 + 4 * n}, 2, n);
    run();
  }
  void run() {
    while (bench_.machine().main_loop().run_once(false)) {
    }
  }
  struct Used {
    u32 id = 0, length = 0;
    friend bool operator==(const Used&, const Used&) = default;
  };
  std::optional<Used> used(unsigned n, u16 slots = 1) {
    Queue& q = queues_[n];
    if (packed()) {
      const u64 d = q.descriptors + 16 * q.used;
      const u16 flags = load<u16>(d + 14);
      if (bool(flags & 0x80) != q.used_wrap || bool(flags & 0x8000) != q.used_wrap) return std::nullopt;
      const Used u{load<u16>(d + 12), load<u32>(d + 8)};
      q.used += slots;
      if (q.used >= size_) q.used -= size_, q.used_wrap = !q.used_wrap;
      return u;
    }
    if (load<u16>(q.device + 2) == q.used) return std::nullopt;
    const u64 e = q.device + 4 + 8 * (q.used++ % size_);
    return Used{load<u32>(e), load<u32>(e + 4)};
  }
  template <class T>
  T load(u64 at) {
    return static_cast<T>(memory().load(GuestPhys{at}, sizeof(T)));
  }
  template <class T>
  void store(u64 at, T value) {
    memory().store(GuestPhys{at}, sizeof(T), value);
  }
  u32 read(u64 offset, unsigned size) { return static_cast<u32>(memory().load(GuestPhys{at_ + offset}, size)); }
  void write(u64 offset, unsigned size, u32 value) { memory().store(GuestPhys{at_ + offset}, size, value); }
  memory::AddressSpace& memory() { return bench_.machine().memory(); }
  u64 base() const { return at_; }
  struct Queue {
    u64 descriptors = 0, driver = 0, device = 0;
    u16 next = 0, available = 0, used = 0;
    bool wrap = true, used_wrap = true;
  };
  Queue& queue(unsigned n) { return queues_[n]; }
  unsigned queue_count() const { return static_cast<unsigned>(queues_.size()); }

 private:
  DeviceBench& bench_;
  u64 at_ = 0, offered_ = 0, features_ = 0;
  u16 size_;
  std::vector<Queue> queues_;
};

}  // namespace vmm::test
