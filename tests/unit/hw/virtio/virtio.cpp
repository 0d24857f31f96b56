// Queues and virtio-pci, driven by a guest of ours: both rings, order, event index, interrupts, and drivers that break the rules.
#include "tests/unit/hw/virtio/driver.h"

namespace vmm::test {

namespace {
using namespace hw::virtio;

// Keeps what it is asked until the test answers.
class BenchVirtio final : public hw::VirtioDevice {
 public:
  static const TypeInfo type;
  static constexpr hw::VirtioPciModel pci{.stem = "bench-virtio-pci", .doc = "For tests.", .legacy_id = 0x103f};
  BenchVirtio() : VirtioDevice(0x3f) {}
  std::vector<hw::Chain> held;
  void answer(usize which, std::string_view text) {
    hw::Chain chain = std::move(held[which]);
    held.erase(held.begin() + static_cast<std::ptrdiff_t>(which));
    const usize n = chain.copy_out(0, {reinterpret_cast<const u8*>(text.data()), text.size()});
    queue(0)->push(std::move(chain), n);
    queue(0)->notify();
  }

 private:
  Result<> realize_virtio() override {
    add_queue(8);
    return {};
  }
  void reset_virtio() override { held.clear(); }
  void queue_notified(unsigned) override {
    while (auto chain = queue(0)->pop()) held.push_back(std::move(*chain));
  }
};
constinit const TypeInfo BenchVirtio::type{.name = "bench-virtio-device",
                                           .doc = "For tests.",
                                           .parent = &hw::VirtioDevice::type,
                                           .make = make<BenchVirtio>,
                                           .user_creatable = false};
Registered registered_device{BenchVirtio::type};
hw::RegisteredVirtioPci<BenchVirtio> registered;

struct IrqLatch final : hw::IrqSink {
  void set_input(unsigned, bool on) override { level = on; }
  bool level = false;
};

struct Fixture {
  explicit Fixture(u64 features, std::vector<std::pair<std::string, Value>> more = {})
      : bench("bench-virtio-pci", with_address(std::move(more))),
        device(dynamic_cast<BenchVirtio&>(bench.device<hw::VirtioPci>().backend())),
        driver(bench, features) {}
  static std::vector<std::pair<std::string, Value>> with_address(std::vector<std::pair<std::string, Value>> p) {
    p.emplace_back("addr", "5");
    return p;
  }
  bool line() const { return bench.line(16) || bench.line(17) || bench.line(18) || bench.line(19); }
  DeviceBench bench;
  BenchVirtio& device;
  VirtioDriver driver;
};
}  // namespace

TEST(virtio_requests_go_round_both_rings_many_times) {
  for (const bool packed : {false, true}) {
    Fixture f{packed ? ring_packed : 0, {{"packed", packed}}};
    CHECK_EQ(f.driver.packed(), packed);
    for (unsigned round = 0; round < 50; round++) {
      const std::string question = format("question {}", round);
      f.driver.memory().write(GuestPhys{0x8000}, {reinterpret_cast<const u8*>(question.data()), question.size()});
      const u16 id = f.driver.add(0, {{0x8000, static_cast<u32>(question.size())}, {0x9000, 4, true}, {0x9100, 60, true}});
      f.driver.kick(0);
      CHECK_EQ(f.device.held.size(), 1u);
      std::string seen(question.size(), 0);
      CHECK_EQ(f.device.held[0].copy_in(0, {reinterpret_cast<u8*>(seen.data()), seen.size()}), question.size());
      CHECK_EQ(seen, question);
      CHECK_EQ(f.device.held[0].writable_bytes(), 64u);
      f.device.answer(0, "an answer");
      const auto used = f.driver.used(0, 3);
      CHECK(used && used->id == id && used->length == 9);
      CHECK_EQ(f.driver.load<u32>(0x9000), 0x61206e61u);  // "an a"
      CHECK_EQ(f.driver.load<u32>(0x9100), 0x6577736eu);  // "nswe"
      CHECK(f.line());
      CHECK_EQ(f.driver.isr(), 1);
      CHECK(!f.line());
    }
  }
}

TEST(virtio_answers_come_in_order_only_where_that_was_agreed) {
  for (const bool packed : {false, true})
    for (const bool ordered : {false, true}) {
      Fixture f{(packed ? ring_packed : 0) | (ordered ? in_order : 0), {{"packed", packed}, {"in_order", ordered}}};
      const u16 first = f.driver.add(0, {{0x9000, 16, true}}), second = f.driver.add(0, {{0x9100, 16, true}});
      f.driver.kick(0);
      f.device.answer(1, "second");
      const auto early = f.driver.used(0);
      CHECK_EQ(early.has_value(), !ordered);
      if (early) CHECK_EQ(early->id, second);
      f.device.answer(0, "first!!");
      auto used = f.driver.used(0);
      CHECK(used && used->id == first && used->length == 7);
      if (!ordered) continue;
      used = f.driver.used(0);
      CHECK(used && used->id == second && used->length == 6);
    }
}

TEST(virtio_event_index_holds_interrupts_back) {
  Fixture f{event_idx};
  auto& q = f.driver.queue(0);
  for (int i = 0; i < 4; i++) f.driver.add(0, {{0x9000, 16, true}});
  f.driver.store<u16>(q.driver + 4 + 2 * 8, 2);  // not before the third answer
  f.driver.kick(0);
  CHECK_EQ(f.driver.load<u16>(q.device + 4 + 8 * 8), 4);  // and it wants to hear of the fifth request
  f.device.answer(0, "1");
  (void)f.driver.isr();  // the first one always comes
  f.device.answer(0, "2");
  CHECK(!f.line());
  f.device.answer(0, "3");
  CHECK(f.line());
  (void)f.driver.isr();
  f.device.answer(0, "4");
  CHECK(!f.line());
}

TEST(virtio_packed_event_suppression) {
  Fixture f{ring_packed | event_idx, {{"packed", true}}};
  auto& q = f.driver.queue(0);
  for (int i = 0; i < 4; i++) f.driver.add(0, {{0x9000, 16, true}});
  f.driver.kick(0);
  f.driver.store<u16>(q.driver, 0x8000 | 2), f.driver.store<u16>(q.driver + 2, 2);
  f.device.answer(0, "1");
  (void)f.driver.isr();
  f.device.answer(0, "2");
  CHECK(!f.line());
  f.device.answer(0, "3");
  CHECK(f.line());
  (void)f.driver.isr();
  f.driver.store<u16>(q.driver + 2, 1);
  f.device.answer(0, "4");
  CHECK(!f.line());
}

TEST(virtio_indirect_tables_and_several_answers_at_once) {
  for (const bool packed : {false, true}) {
    Fixture f{indirect_desc | (packed ? ring_packed : 0), {{"packed", packed}}};
    for (u16 i = 0; i < 2; i++) {
      const u64 table = 0xa000 + i * 0x100;
      f.driver.store<u64>(table, 0x8000), f.driver.store<u32>(table + 8, 8);
      f.driver.store<u64>(table + 16, 0x9000 + i * 0x100), f.driver.store<u32>(table + 24, 8);
      f.driver.store<u32>(table + 12, packed ? 0 : 1 | 1 << 16);
      f.driver.store<u32>(table + 28, packed ? 2 << 16 : 2);
      if (packed) {
        const u64 d = f.driver.queue(0).descriptors + 16 * i;
        f.driver.store<u64>(d, table), f.driver.store<u32>(d + 8, 32), f.driver.store<u16>(d + 12, i), f.driver.store<u16>(d + 14, 0x84);
      } else {
        f.driver.put(0, i, table, 32, 4, 0);
        f.driver.make_available(0, i);
      }
    }
    f.driver.kick(0);
    CHECK_EQ(f.device.held.size(), 2u);
    CHECK_EQ(f.device.held[0].readable_bytes(), 8u);
    CHECK_EQ(f.device.held[1].writable_bytes(), 8u);
    hw::VirtQueue& q = *f.device.queue(0);
    for (auto& chain : std::exchange(f.device.held, {})) {
      const u64 n = chain.copy_out(0, u64{0x1122334455667788});
      q.stage(std::move(chain), n * 8);
    }
    CHECK(!f.driver.used(0));
    q.publish(), q.notify();
    const auto one = f.driver.used(0), two = f.driver.used(0);
    CHECK(one && two && one->length == 8 && two->id == 1);
    CHECK_EQ(f.driver.load<u64>(0x9100), 0x1122334455667788u);
  }
}

TEST(virtio_a_request_is_given_back) {
  for (const bool packed : {false, true}) {
    Fixture f{packed ? ring_packed : 0, {{"packed", packed}}};
    for (int i = 0; i < 3; i++) {  // so that two slots cross the end of the packed ring
      f.driver.add(0, {{0x9000, 16, true}, {0x9100, 16, true}, {0x9200, 16, true}});
      f.driver.kick(0);
      hw::VirtQueue& q = *f.device.queue(0);
      q.give_back(std::move(f.device.held[0])), f.device.held.clear();
      auto again = q.pop();
      CHECK(again && again->writable_bytes() == 48 && !q.pop());
      f.device.held.push_back(std::move(*again));
      f.device.answer(0, "x");
      CHECK(f.driver.used(0, 3));
    }
  }
}

TEST(virtio_drivers_that_break_the_rules_stop_their_device_only) {
  struct Case {
    std::string_view name;
    void (*make)(VirtioDriver& d);
  };
  static constexpr u64 far = 0xffff'ffff'ffff'fff0;
  const Case cases[] = {
      {"loop", [](VirtioDriver& d) { d.put(0, 0, 0x8000, 8, 1, 1), d.put(0, 1, 0x8000, 8, 1, 0), d.make_available(0, 0); }},
      {"self", [](VirtioDriver& d) { d.put(0, 0, 0x8000, 8, 1, 0), d.make_available(0, 0); }},
      {"head", [](VirtioDriver& d) { d.make_available(0, 8); }},
      {"link", [](VirtioDriver& d) { d.put(0, 0, 0x8000, 8, 1, 0x7fff), d.make_available(0, 0); }},
      {"order", [](VirtioDriver& d) { d.put(0, 0, 0x8000, 8, 3, 1), d.put(0, 1, 0x8000, 8, 0, 0), d.make_available(0, 0); }},
      {"index", [](VirtioDriver& d) { d.store<u16>(d.queue(0).driver + 2, 9); }},
      {"end of addresses", [](VirtioDriver& d) { d.put(0, 0, far, 0x100, 0, 0), d.make_available(0, 0); }},
      {"4 GiB", [](VirtioDriver& d) { d.put(0, 0, 0, ~u32{0}, 1, 1), d.put(0, 1, 0, ~u32{0}, 0, 0), d.make_available(0, 0); }},
      {"table size", [](VirtioDriver& d) { d.put(0, 0, 0x8000, 17, 4, 0), d.make_available(0, 0); }},
      {"table nowhere", [](VirtioDriver& d) { d.put(0, 0, 0x7000'0000, 32, 4, 0), d.make_available(0, 0); }},
      {"table too long", [](VirtioDriver& d) { d.put(0, 0, 0x8000, ~u32{15}, 4, 0), d.make_available(0, 0); }},
      {"table in table", [](VirtioDriver& d) { d.store<u32>(0x800c, 4), d.put(0, 0, 0x8000, 16, 4, 0), d.make_available(0, 0); }},
      {"table loop", [](VirtioDriver& d) { d.store<u32>(0x800c, 1), d.put(0, 0, 0x8000, 16, 4, 0), d.make_available(0, 0); }},
      {"table goes on", [](VirtioDriver& d) { d.put(0, 0, 0x8000, 16, 5, 1), d.make_available(0, 0); }},
  };
  for (const Case& c : cases) {
    Fixture f{indirect_desc};
    c.make(f.driver);
    f.driver.kick(0);
    if (f.driver.status() != 0x4f) failed(std::string{c.name}.c_str(), __FILE__, __LINE__, format("status {:#x}", f.driver.status()));
    CHECK(f.device.held.empty());
    CHECK_EQ(f.driver.isr() & 2, 2);
    // A reset mends it.
    f.driver.begin(0);
    f.driver.add(0, {{0x9000, 16, true}});
    f.driver.kick(0);
    CHECK_EQ(f.device.held.size(), 1u);
    CHECK_EQ(f.driver.status(), 0x0f);
  }
}

TEST(virtio_packed_drivers_that_break_the_rules) {
  const auto broken = [](void (*make)(VirtioDriver& d, u64 ring)) {
    Fixture f{ring_packed | indirect_desc, {{"packed", true}}};
    make(f.driver, f.driver.queue(0).descriptors);
    f.driver.kick(0);
    CHECK_EQ(f.driver.status(), 0x4f);
    CHECK(f.device.held.empty());
  };
  broken([](VirtioDriver& d, u64 ring) {
    for (int i = 0; i < 8; i++)
      d.store<u64>(ring + 16 * i, 0x8000), d.store<u32>(ring + 16 * i + 8, 4), d.store<u16>(ring + 16 * i + 14, 0x81);
  });
  broken([](VirtioDriver& d, u64 ring) { d.store<u32>(ring + 8, 15), d.store<u16>(ring + 14, 0x84); });
  broken([](VirtioDriver& d, u64 ring) {
    d.store<u32>(ring + 8, 4), d.store<u16>(ring + 14, 0x83), d.store<u32>(ring + 24, 4), d.store<u16>(ring + 30, 0x80);
  });
}

TEST(virtio_answers_from_before_a_reset_are_dropped) {
  Fixture f{0};
  f.driver.add(0, {{0x9000, 16, true}});
  f.driver.kick(0);
  hw::Chain old = std::move(f.device.held[0]);
  f.device.held.clear();
  f.driver.begin(0);
  f.device.queue(0)->push(std::move(old), 16);
  CHECK(!f.driver.used(0));
}

TEST(virtio_own_registers_are_no_memory) {
  // The ring's buffers are the device's own registers: refused, not executed.
  Fixture f{0};
  f.driver.add(0, {{f.driver.base() + 20, 1, true}});  // its status
  f.driver.kick(0);
  CHECK_EQ(f.device.held.size(), 1u);
  {
    memory::InsideDevice inside{&f.bench.device()};
    CHECK_EQ(f.device.held[0].copy_out(0, u8{0}), false);
  }
  CHECK_EQ(f.driver.status(), 0x0f);
}

TEST(virtio_interrupts_by_msix) {
  Fixture f{0};
  const auto bars = f.bench.device<hw::VirtioPci>().bar_list();
  u64 table = 0;
  for (const auto& bar : bars)
    if (bar.index == 1) table = bar.address;
  f.bench.write32(table + 16, 0xfee00000), f.bench.write32(table + 24, 0x4041), f.bench.write32(table + 28, 0);
  f.bench.config_write(VirtioDriver::slot, 0x98 + 2, 2, 0x8000);
  f.driver.write(22, 2, 0), f.driver.write(26, 2, 1);
  CHECK_EQ(f.driver.read(26, 2), 1u);
  f.driver.write(16, 2, 7);
  CHECK_EQ(f.driver.read(16, 2), 0xffffu);  // there is no vector 7
  f.driver.add(0, {{0x9000, 16, true}});
  f.driver.kick(0);
  f.device.answer(0, "x");
  CHECK_EQ(f.bench.messages.size(), 1u);
  CHECK_EQ(f.bench.messages[0].data, 0x4041u);
  CHECK(!f.line());
}

TEST(virtio_registers_by_configuration_space) {
  Fixture f{0};
  constexpr u16 window = 0x84;
  f.bench.config_write(VirtioDriver::slot, window + 4, 1, 4);
  f.bench.config_write(VirtioDriver::slot, window + 8, 4, 20);
  f.bench.config_write(VirtioDriver::slot, window + 12, 4, 1);
  CHECK_EQ(f.bench.config_read(VirtioDriver::slot, window + 16, 1), 0x0fu);
  f.bench.config_write(VirtioDriver::slot, window + 16, 1, 0);
  CHECK_EQ(f.driver.status(), 0);
}

TEST(virtio_saved_and_loaded_in_the_middle) {
  for (const bool packed : {false, true}) {
    Fixture f{packed ? ring_packed : 0, {{"packed", packed}}};
    for (int i = 0; i < 5; i++) {
      f.driver.add(0, {{0x9000, 16, true}});
      f.driver.kick(0);
      f.device.answer(0, "x");
      CHECK(f.driver.used(0));
    }
    f.driver.add(0, {{0x9000, 16, true}});
    const Value inner = f.device.save();
    OK(f.device.load(inner));
    f.driver.run();  // what was available is taken without a kick
    CHECK_EQ(f.device.held.size(), 1u);
    f.device.answer(0, "yes");
    CHECK_EQ(f.driver.used(0)->length, 3u);
  }
}

TEST(virtio_mmio_registers) {
  for (const bool legacy : {false, true}) {
    DeviceBench bench;
    hw::Device& mmio = bench.add("virtio-mmio", {{"force-legacy", legacy}});
    constexpr u64 at = 0xd000'0000;
    memory::MemoryRegion& region = *mmio.regions()[0];
    bench.machine().memory_root().add(region, at);
    IrqLatch line;
    mmio.irqs()[0]->connect(line, 0);
    CHECK_EQ(bench.read32(at + 8), 0u);  // nobody there yet
    auto& device = dynamic_cast<BenchVirtio&>(*OK(hw::create_device(
        bench.machine(), {.driver = "bench-virtio-device", .bus = mmio.buses()[0]->name(), .place = hw::DeviceSpec::Place::unattached})));
    const auto write = [&](u64 reg, u32 value) { bench.write32(at + reg, value); };
    CHECK_EQ(bench.read32(at), 0x74726976u);
    CHECK_EQ(bench.read32(at + 4), legacy ? 1u : 2u);
    CHECK_EQ(bench.read32(at + 8), 0x3fu);
    write(0x70, 3);
    write(0x14, 1);
    CHECK_EQ(bench.read32(at + 0x10) & 1, legacy ? 0u : 1u);
    write(0x24, 1), write(0x20, legacy ? 0 : 1);
    if (!legacy) write(0x70, 11);
    CHECK_EQ(bench.read32(at + 0x34), 8u);
    write(0x38, 8);
    const u64 descriptors = 0x1000, driver = legacy ? 0x1080 : 0x2000, used = legacy ? 0x2000 : 0x3000;
    if (legacy) {
      write(0x28, 4096), write(0x3c, 4096), write(0x40, 1);
    } else {
      write(0x80, 0x1000), write(0x90, 0x2000), write(0xa0, 0x3000), write(0x44, 1);
    }
    write(0x70, 15);
    bench.write64(descriptors, 0x9000), bench.write32(descriptors + 8, 16), bench.write32(descriptors + 12, 2);
    bench.write32(driver, 1 << 16);  // index 1, entry 0
    write(0x50, 0);
    while (bench.machine().main_loop().run_once(false)) {
    }
    CHECK_EQ(device.held.size(), 1u);
    device.answer(0, "reply");
    CHECK(line.level);
    CHECK_EQ(bench.read32(at + 0x60), 1u);
    write(0x64, 1);
    CHECK(!line.level);
    CHECK_EQ(bench.read32(used) >> 16, 1u);
    CHECK_EQ(bench.read32(used + 8), 5u);
    write(0x70, 0);
    CHECK_EQ(bench.read32(at + 0x70), 0u);
    bench.machine().memory_root().remove(region);
  }
}

TEST(virtio_rng_fills_what_its_quota_allows) {
  DeviceBench bench{"virtio-rng-pci", {{"addr", "5"}, {"max-bytes", 24}, {"period", 1000}}};
  VirtioDriver driver{bench, 0};
  driver.add(0, {{0x9000, 16, true}});
  driver.add(0, {{0x9100, 16, true}});
  driver.add(0, {{0x9200, 16, true}});
  driver.kick(0);
  CHECK_EQ(driver.used(0)->length, 16u);
  CHECK_EQ(driver.used(0)->length, 8u);
  CHECK(!driver.used(0));
  CHECK(driver.load<u64>(0x9000) | driver.load<u64>(0x9008));
  bench.advance(2s);
  driver.run();
  CHECK_EQ(driver.used(0)->length, 16u);
}

TEST(virtio_pci_shows_what_its_properties_say) {
  const auto id = [](std::string_view driver, std::vector<std::pair<std::string, Value>> p) {
    p.emplace_back("addr", "5");
    DeviceBench bench{driver, std::move(p)};
    return bench.config_read(5, 0, 4);
  };
  CHECK_EQ(id("virtio-rng-pci", {}), 0x10051af4u);
  CHECK_EQ(id("virtio-rng-pci", {{"disable-legacy", "on"}}), 0x10441af4u);
  CHECK_EQ(id("virtio-rng-pci-non-transitional", {}), 0x10441af4u);
  CHECK_EQ(id("virtio-rng-pci-transitional", {}), 0x10051af4u);
  DeviceBench bench;
  Value both = Value::object();
  both.set("disable-legacy", "on"), both.set("disable-modern", true);
  CHECK(!hw::create_device(bench.machine(), {.driver = "virtio-rng-pci", .properties = both, .place = hw::DeviceSpec::Place::unattached}));
  CHECK(!hw::create_device(bench.machine(), {.driver = "virtio-rng-pci",
                                             .properties =
                                                 [] {
                                                   Value v = Value::object();
                                                   v.set("nosuch", 1);
                                                   return v;
                                                 }(),
                                             .place = hw::DeviceSpec::Place::unattached}));
}

}  // namespace vmm::test
