// virtio-net's receive side, driven by a guest of ours.
#include "hw/net/nic.h"

#include "tests/unit/hw/virtio/driver.h"

namespace vmm::test {
namespace {
using namespace hw::virtio;
constexpr u64 mrg_rxbuf = u64{1} << 15;

struct Wire final : net::End {
  bool receive(const net::Packet&) override { return true; }
  void resume() override { resumed++; }
  unsigned resumed = 0;
};

struct Fixture {
  explicit Fixture(u64 features)
      : bench("virtio-net-pci", {{"mac", "52:54:00:00:00:01"}, {"romfile", ""}, {"addr", "5"}}), driver(bench, features) {
    bench.machine().run_state().start();
    net::End::link(card().end(0), wire);
  }
  net::Card& card() { return dynamic_cast<net::Card&>(bench.device<hw::VirtioPci>().backend()); }
  bool deliver(usize size) {
    std::vector<u8> frame(size, 0x55);
    std::ranges::fill_n(frame.begin(), 6, u8{0xff});
    return card().end(0).receive(net::FlatPacket{frame});
  }
  void add(u64 at, u32 size) { driver.add(0, {{at, size, true}}); }
  DeviceBench bench;
  VirtioDriver driver;
  Wire wire;
};

TEST(a_packet_that_lacks_buffers_asks_for_a_kick_behind_the_last_of_them) {
  Fixture f(mrg_rxbuf | hw::virtio::event_idx);
  f.add(0x8000, 1500), f.add(0x8800, 1500);
  f.driver.kick(0);
  CHECK(!f.deliver(4000));
  // The driver kicks when the index that is asked for is passed: it stands where its next buffer comes.
  CHECK_EQ(f.driver.load<u16>(f.driver.queue(0).device + 4 + 8 * 8), 2u);
  CHECK(!f.driver.used(0));
  const unsigned before = f.wire.resumed;
  f.add(0x9000, 1500);
  f.driver.kick(0);
  CHECK_EQ(f.wire.resumed, before + 1);
  CHECK(f.deliver(4000));
  f.driver.run();
  for (const u32 length : {1500u, 1500u, 1012u}) {
    const auto used = f.driver.used(0);
    CHECK(used && used->length == length);
  }
}

}  // namespace
}  // namespace vmm::test
