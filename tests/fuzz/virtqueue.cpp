// Virtqueues of every virtio device in the hands of a hostile driver: requests in good form with odd contents, rings and tables overwritten
// at will, kicks, resets, device registers as buffers. Nothing may crash, hang or grow; after a reset each device must work again.
// Input: device, flags (packed, indirect, event index, in-order), then operations.
#include <algorithm>

#include "net/net.h"
#include "tests/fuzz/support/input.h"
#include "tests/unit/hw/bench_chardev.h"
#include "tests/unit/hw/bench_disk.h"
#include "tests/unit/hw/virtio/driver.h"

using namespace vmm;

namespace {

struct Model {
  const char* driver;
  std::vector<std::pair<std::string, Value>> properties;
  std::vector<const char*> more;  // devices on its bus
};
const std::vector<Model>& models() {
  static const auto& all = *new std::vector<Model>{
      {"virtio-blk-pci", {{"drive", "disk"}}, {}},
      {"virtio-scsi-pci", {}, {"scsi-hd", "scsi-cd"}},
      {"virtio-serial-pci", {}, {"virtconsole", "virtserialport"}},
      {"virtio-balloon-pci", {{"free-page-reporting", true}}, {}},
      {"virtio-rng-pci", {{"max-bytes", 4096}, {"period", 100}}, {}},
      {"virtio-net-pci", {{"romfile", ""}, {"mac", "52:54:00:00:00:01"}}, {}},
  };
  return all;
}

// The other end of a card's cable: now and then full, and cutting what the card leaves undone.
class Wire final : public net::End {
 public:
  bool receive(const net::Packet& packet) override {
    ASSERT(packet.size() >= 14 && packet.size() <= net::max_packet_bytes);
    return ++count_ % 5 != 0;
  }
  net::OffloadSet takes() const override { return {.checksum = count_ % 3 == 0, .tcp4 = count_ % 2 == 0}; }
  void frame(std::span<const u8> words) {
    std::vector<u8> f(60 + words[0] * 16);
    std::ranges::copy(words, f.begin());
    send(net::FlatPacket{f,
                         {.needs_checksum = (words[1] & 1) != 0,
                          .segment = words[1] & 2 ? net::Offload::Segment::tcp4 : net::Offload::Segment::none,
                          .segment_bytes = words[2],
                          .checksum_start = words[3],
                          .checksum_offset = words[4]}});
  }

 private:
  unsigned count_ = 0;
};
net::Card* card_of(Object& object) {
  if (auto* card = dynamic_cast<net::Card*>(&object)) return card;
  for (const auto& child : object.children())
    if (net::Card* card = card_of(*child)) return card;
  return nullptr;
}

// Where a buffer lies: RAM mostly; rings, the device's own registers, holes, the end of addresses.
u64 place(u8 kind, u16 offset, u64 registers) {
  switch (kind & 7) {
    case 0:
    case 1:
    case 2:
    case 3: return 0x8000 + (offset & 0x7fff);
    case 4: return offset;
    case 5: return registers + (offset & 0x3fff);
    case 6: return 0x7000'0000u + offset;
    default: return ~u64{0} - offset;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const u8* data, size_t size) {
  fuzz::Input in{data, size};
  const Model& model = models()[in.take<u8>() % models().size()];
  const u8 flags = in.take<u8>();
  test::DeviceBench bench;
  const test::HostEnd console{"console"}, port{"port"};
  const test::BenchDisk disk{bench, "disk"}, second{bench, "second", 64 * KiB, true};
  auto properties = model.properties;
  properties.emplace_back("addr", "5");
  properties.emplace_back("packed", bool(flags & 1));
  properties.emplace_back("in_order", bool(flags & 8));
  bench.add(model.driver, properties);
  for (const char* name : model.more) {
    const std::string_view type = name;
    std::vector<std::pair<std::string, Value>> p;
    if (type == "scsi-hd") p.emplace_back("drive", "disk");
    if (type == "scsi-cd") p.emplace_back("drive", "second");
    if (type == "virtconsole") p.emplace_back("chardev", "console");
    if (type == "virtserialport") p.emplace_back("chardev", "port");
    Value object = Value::object();
    for (auto& [key, value] : p) object.set(key, value);
    (void)hw::create_device(bench.machine(), {.driver = name, .properties = object, .place = hw::DeviceSpec::Place::unattached});
  }
  Wire wire;
  net::Card* const card = card_of(bench.device());
  bench.machine().run_state().start();
  if (card) net::End::link(card->end(0), wire);
  const u64 features = ~hw::virtio::event_idx & ~hw::virtio::ring_packed & ~hw::virtio::in_order;
  const u64 wanted = features | (flags & 1 ? hw::virtio::ring_packed : 0) | (flags & 4 ? hw::virtio::event_idx : 0) |
                     (flags & 8 ? hw::virtio::in_order : 0);
  test::VirtioDriver driver{bench, wanted};
  for (unsigned steps = 0; in.more() && steps < 512; steps++) {
    const u8 op = in.take<u8>();
    const unsigned queue = (op >> 4 & 3) % std::max(driver.queue_count(), 1u);
    switch (op & 0xf) {
      case 0:
      case 1:
      case 2: {  // a request; its first bytes as given
        std::vector<test::GuestBuffer> buffers;
        const u8 shape = in.take<u8>();
        const unsigned count = 1 + (shape & 3), readable = shape >> 2 & 3;
        for (unsigned i = 0; i < count; i++) {
          const u8 kind = in.take<u8>();
          const u16 offset = in.take<u16>();
          buffers.push_back({place(kind, offset, driver.base()), kind & 0x80 ? in.take<u32>() : u32{in.take<u8>()}, i >= readable});
        }
        const u8 bytes = in.take<u8>();
        for (unsigned i = 0; i < bytes % 64u && !buffers.empty(); i++)
          if (buffers[0].at < 0x10000 - 64) driver.store<u8>(buffers[0].at + i, in.take<u8>());
        if (queue < driver.queue_count() && driver.queue(queue).descriptors) driver.add(queue, buffers);
        driver.kick(queue);
        break;
      }
      case 3: driver.kick(op >> 4); break;
      case 4:
      case 5: {  // anything, anywhere below 64 KiB
        const u16 at = in.take<u16>();
        const u8 n = in.take<u8>() % 32;
        for (u32 i = 0; i < n && u32{at} + i < 0x10000; i++) driver.store<u8>(at + i, in.take<u8>());
        break;
      }
      case 6: driver.begin(wanted); break;
      case 7: driver.set_config(in.take<u8>(), 4, in.take<u32>()); break;
      case 8: {
        const u8 at = in.take<u8>();
        driver.write(at % 64, op & 0x10 ? 4 : 2, in.take<u32>());
        break;
      }
      case 9: bench.advance(Nanoseconds{i64{in.take<u16>()} * 100'000}); break;
      case 10:
        port->feed("bytes from outside"), console->feed("and others");
        if (card) wire.frame(std::array{in.take<u8>(), in.take<u8>(), in.take<u8>(), in.take<u8>(), in.take<u8>(), in.take<u8>()});
        break;
      case 11:
        port->make_room(in.take<u8>());
        wire.ready();
        break;
      case 12: disk->fail_with = op & 0x10 ? 5 : op & 0x20 ? 28 : 0; break;
      case 13: op & 0x10 ? void(disk->hold = true) : disk->go_on(); break;
      case 14: {
        Value state = bench.device().save();
        (void)bench.device().load(state);
        break;
      }
      default: driver.run();
    }
  }
  disk->fail_with = 0;
  disk->go_on();
  driver.run();
  // A reset mends everything.
  driver.set_status(0);
  driver.run();
  wire.unlink();
  if (driver.status()) test::failed(model.driver, __FILE__, __LINE__, "not idle after a reset");
  return 0;
}
