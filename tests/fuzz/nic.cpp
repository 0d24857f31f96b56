// Cards: registers, descriptors and buffers in guest memory, frames from the network, a peer that is now and then full, in any order.
// Nothing makes a card crash, hang, or send a frame that no cable could carry.
#include "hw/net/nic.h"
#include "src/base/bits.h"
#include "tests/unit/hw/bench.h"

namespace {
using namespace vmm;

class Wire final : public net::End {
 public:
  bool receive(const net::Packet& packet) override {
    ASSERT(packet.size() >= 14 && packet.size() <= net::max_packet_bytes);
    return ++count % 5 != 0;
  }
  net::OffloadSet takes() const override { return {.checksum = count % 3 == 0, .tcp4 = count % 2 == 0}; }
  unsigned count = 0;
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const u8* data, size_t size) {
  static constexpr std::string_view models[] = {"e1000", "e1000e", "rtl8139", "e1000-82544gc"};
  if (size < 1) return 0;
  const std::string_view model = models[data[0] % std::size(models)];
  if (!find_type(model)) return 0;
  test::DeviceBench bench{model, {{"romfile", ""}, {"mac", "52:54:00:00:00:01"}}};
  const auto bars = bench.place_bars(0);
  const u64 bar = model == "rtl8139" ? bars[1] : bars[0];
  bench.machine().run_state().start();
  auto& card = dynamic_cast<net::Card&>(bench.device());
  Wire wire;
  net::End::link(card.end(0), wire);
  std::vector<u8> frame(2000);
  usize at = 1;
  for (unsigned steps = 0; at + 7 <= size && steps < 400; steps++) {
    const u8 op = data[at];
    const u32 where = load_le<u16>(&data[at + 1]), value = load_le<u32>(&data[at + 3]);
    at += 7;
    switch (op % 8) {
      case 0: bench.write32(bar + (where & ~3u), value); break;
      case 1: bench.write32(bar + (where & ~3u), value & 0xffff); break;  // addresses that are RAM, small numbers
      case 2: bench.read32(bar + (where & ~3u)); break;
      case 3: bench.machine().memory().store(GuestPhys{bar + where}, 1, value & 0xff); break;
      case 4: bench.write32(where & 0xfffc, value); break;
      case 5: {
        const usize n = std::min<usize>(where & 0x7ff, frame.size());
        for (usize i = 0; i < n && i < size; i++) frame[i] = data[(at + i) % size];
        if (value & 1 && n >= 6) std::copy_n(card.mac().begin(), 6, frame.begin());
        wire.send(std::span{frame}.first(n));
        break;
      }
      case 6: wire.ready(); break;
      default:
        if (value & 0x80) card.end(0).set_link(value & 1);
        bench.machine().main_loop().run_once(false);
    }
  }
  for (unsigned i = 0; i < 8; i++) bench.machine().main_loop().run_once(false);
  wire.unlink();
  return 0;
}
