#include "hw/pci/bridge.h"
#include "hw/pci/host.h"
#include "src/base/bits.h"
#include "tests/unit/hw/test_machine.h"
#include "tests/unit/test.h"

namespace vmm::hw {
namespace {

class TestHost final : public PciHostBridge {
 public:
  static inline constinit const TypeInfo type{.name = "test-pci-host", .doc = "", .parent = &PciHostBridge::type};
  TestHost() : PciHostBridge(false, "pci.0") {}
};

class Function final : public PciDevice {
 public:
  static inline constinit const TypeInfo type{.name = "test-pci-function", .doc = "", .parent = &PciDevice::type};
  Function() : PciDevice({.vendor = 0x1111, .device = 0x2222, .class_code = 0x020000}) {}
  u32 last_written = 0;

 private:
  Result<> realize_pci() override {
    set_interrupt_pin(1);
    memory_.init_io<&Function::read, &Function::write>(*this, "test-mem", 0x1000);
    io_.init_io<&Function::read, &Function::write>(*this, "test-io", 16);
    messages_bar_.init_container(this, "test-msix", 0x1000);
    add_bar(0, PciBarKind::memory32, memory_);
    add_bar(1, PciBarKind::io, io_);
    add_bar(2, PciBarKind::memory64_prefetch, messages_bar_);
    TRY(add_msi(4, true));
    return add_msix(3, 2, 0, 0x800, messages_bar_);
  }
  u64 read(u64 offset, unsigned) { return 0xab00 + offset; }
  void write(u64, unsigned, u64 value) { last_written = static_cast<u32>(value); }
  memory::MemoryRegion memory_, io_, messages_bar_;
};

class Bridge final : public PciBridge {
 public:
  static inline constinit const TypeInfo type{.name = "test-pci-bridge", .doc = "", .parent = &PciBridge::type};
  Bridge() : PciBridge({.vendor = 0x1111, .device = 0x3333, .class_code = 0x060400, .header_type = 1}, false) {}
};

struct Bench {
  MachineLocked locked;
  Ref<test::TestMachine> machine = test::TestMachine::make();
  memory::MemoryRegion pci_memory;
  Ref<TestHost> host;
  std::vector<MsiMessage> messages;
  u64 lines = 0;  // bit device * 4 + line

  Bench() {
    pci_memory.init_container(nullptr, "pci", u128{1} << 64);
    machine->memory_root().add(pci_memory, 0, -1);
    host = make_device<TestHost>(*machine);
    host->wire(pci_memory, machine->port_root(), machine->memory());
    host->msi = [this](MsiMessage m) { messages.push_back(m); };
    host->intx = [this](unsigned line, unsigned device, bool level) {
      const u64 b = u64{1} << (device * 4 + line);
      lines = level ? lines | b : lines & ~b;
    };
    CHECK(host->attach(nullptr).has_value());
  }
  ~Bench() { machine->memory_root().remove(pci_memory); }
  template <class T>
  Ref<T> plug(u8 slot, PciBus* bus = nullptr) {
    auto d = make_device<T>(*machine);
    d->set_address(slot, 0);
    CHECK(d->attach(bus ? bus : &host->root_bus()).has_value());
    return d;
  }
  u32 address(u8 bus, u8 slot, u16 at) { return 0x8000'0000u | u32{bus} << 16 | u32{slot} << 11 | (at & 0xfcu); }
  u32 read(u8 slot, u16 at, unsigned size, u8 bus = 0) {
    machine->out(0xcf8, 4, address(bus, slot, at));
    return machine->in(static_cast<u16>(0xcfc + (at & 3)), size);
  }
  void write(u8 slot, u16 at, unsigned size, u32 value, u8 bus = 0) {
    machine->out(0xcf8, 4, address(bus, slot, at));
    machine->out(static_cast<u16>(0xcfc + (at & 3)), size, value);
  }
};

}  // namespace

TEST(pci_absent_function_reads_all_ones_and_present_one_its_ids) {
  Bench b;
  b.plug<Function>(3);
  CHECK_EQ(b.read(2, 0, 4), 0xffff'ffffu);
  CHECK_EQ(b.read(3, 0, 4), 0x2222'1111u);
  CHECK_EQ(b.read(3, 2, 2), 0x2222u);
  CHECK_EQ(b.read(3, 0x0b, 1), 0x02u);
  b.write(3, 0, 4, 0);
  CHECK_EQ(b.read(3, 0, 2), 0x1111u);  // read-only
}

TEST(pci_bar_is_sized_mapped_moved_and_unmapped) {
  Bench b;
  auto d = b.plug<Function>(3);
  b.write(3, 0x10, 4, 0xffff'ffff);
  CHECK_EQ(b.read(3, 0x10, 4), 0xffff'f000u);
  b.write(3, 0x14, 4, 0xffff'ffff);
  CHECK_EQ(b.read(3, 0x14, 4), 0xffff'fff1u);
  b.write(3, 0x18, 4, 0xffff'ffff), b.write(3, 0x1c, 4, 0xffff'ffff);
  CHECK_EQ(b.read(3, 0x18, 4), 0xffff'f00cu);
  CHECK_EQ(b.read(3, 0x1c, 4), 0xffff'ffffu);
  b.write(3, 0x10, 4, 0xe000'0000);
  CHECK_EQ(b.machine->memory().load(GuestPhys{0xe000'0004}, 4), 0xffff'ffffu);  // decoding is off
  b.write(3, 0x04, 2, 3);
  CHECK_EQ(b.machine->memory().load(GuestPhys{0xe000'0004}, 4), 0xab04u);
  b.write(3, 0x14, 4, 0xc000);
  CHECK_EQ(b.machine->in(0xc004, 4), 0xab04u);
  b.write(3, 0x10, 4, 0xd000'0000);
  CHECK_EQ(b.machine->memory().load(GuestPhys{0xe000'0004}, 4), 0xffff'ffffu);
  CHECK_EQ(b.machine->memory().load(GuestPhys{0xd000'0000}, 4), 0xab00u);
  d->reset_tree();
  CHECK_EQ(b.machine->memory().load(GuestPhys{0xd000'0000}, 4), 0xffff'ffffu);
  CHECK_EQ(b.read(3, 0x10, 4), 0u);
}

TEST(pci_intx_follows_command_bit_and_is_wired_or) {
  Bench b;
  auto d = b.plug<Function>(3);
  d->set_intx(true);
  CHECK_EQ(b.lines, u64{1} << 12);
  CHECK(b.read(3, 6, 2) & 8);
  b.write(3, 4, 2, 0x400);
  CHECK_EQ(b.lines, 0u);
  b.write(3, 4, 2, 0);
  CHECK_EQ(b.lines, u64{1} << 12);
  d->reset_tree();
  CHECK_EQ(b.lines, 0u);
}

TEST(pci_msi_counts_vectors_and_masks) {
  Bench b;
  auto d = b.plug<Function>(3);
  const u8 cap = static_cast<u8>(b.read(3, b.read(3, 0x34, 1) + 1u, 1));  // MSI-X is first in the list, then MSI
  CHECK_EQ(b.read(3, cap, 1), 5u);
  b.write(3, 4, 2, 4);
  b.write(3, cap + 4, 4, 0xfee0'0000), b.write(3, cap + 12, 2, 0x40);
  d->msi_notify(0);
  CHECK(b.messages.empty());
  b.write(3, cap + 2, 2, 0x21);  // on, 4 vectors
  b.write(3, cap + 16, 4, 2);
  d->msi_notify(3);
  CHECK_EQ(b.messages.size(), 1u);
  CHECK_EQ(b.messages[0].data, 0x43u);
  d->msi_notify(1);
  CHECK_EQ(b.messages.size(), 1u);
  b.write(3, cap + 16, 4, 0);
  CHECK_EQ(b.messages.size(), 2u);
  CHECK_EQ(b.messages[1].data, 0x41u);
  d->msi_notify(77);
  CHECK_EQ(b.messages.size(), 2u);
}

TEST(pci_msix_holds_masked_vectors_as_pending) {
  Bench b;
  auto d = b.plug<Function>(3);
  const u8 cap = static_cast<u8>(b.read(3, 0x34, 1));
  CHECK_EQ(b.read(3, cap, 1), 0x11u);
  CHECK_EQ(b.read(3, cap + 2, 2), 2u);
  b.write(3, 0x18, 4, 0xe000'0000), b.write(3, 4, 2, 6);
  auto& m = b.machine->memory();
  m.store(GuestPhys{0xe000'0010}, 8, 0xfee0'1000), m.store(GuestPhys{0xe000'0018}, 4, 0x55);
  b.write(3, cap + 2, 2, 0x8000);
  d->msix_notify(1);
  CHECK(b.messages.empty());  // entries come up masked
  CHECK_EQ(m.load(GuestPhys{0xe000'0800}, 4), 2u);
  m.store(GuestPhys{0xe000'001c}, 4, 0);
  CHECK_EQ(b.messages.size(), 1u);
  CHECK_EQ(b.messages[0].address, 0xfee0'1000u);
  CHECK_EQ(m.load(GuestPhys{0xe000'0800}, 8), 0u);
  b.write(3, cap + 2, 2, 0xc000);  // the whole function masked
  d->msix_notify(1);
  CHECK_EQ(b.messages.size(), 1u);
  b.write(3, cap + 2, 2, 0x8000);
  CHECK_EQ(b.messages.size(), 2u);
  d->msix_notify(3);  // there are three
  CHECK_EQ(b.messages.size(), 2u);
}

TEST(pci_bridge_routes_configuration_windows_and_interrupts) {
  Bench b;
  auto bridge = b.plug<Bridge>(2);
  auto d = b.plug<Function>(5, &bridge->secondary());
  CHECK_EQ(b.read(5, 0, 4, 7), 0xffff'ffffu);
  b.write(2, 0x18, 4, 0x00'07'07'00);
  CHECK_EQ(b.read(5, 0, 4, 7), 0x2222'1111u);
  b.write(5, 0x10, 4, 0xe010'0000, 7), b.write(5, 4, 2, 2, 7);
  CHECK_EQ(b.machine->memory().load(GuestPhys{0xe010'0000}, 4), 0xffff'ffffu);  // the window is shut
  b.write(2, 0x20, 4, 0xe010'e010), b.write(2, 4, 2, 2);
  CHECK_EQ(b.machine->memory().load(GuestPhys{0xe010'0000}, 4), 0xab00u);
  d->set_intx(true);  // slot 5 INTA behind slot 2: pin B
  CHECK_EQ(b.lines, u64{1} << (2 * 4 + 1));
  b.write(2, 0x3e, 2, 0x40);  // secondary bus reset
  CHECK_EQ(b.lines, 0u);
  CHECK_EQ(b.read(5, 0x10, 4, 7), 0u);
}

TEST(pci_bridges_in_a_loop_of_numbers_end) {
  Bench b;
  auto first = b.plug<Bridge>(2);
  auto second = b.plug<Bridge>(0, &first->secondary());
  b.write(2, 0x18, 4, 0x00'ff'01'00);
  b.write(0, 0x18, 4, 0x00'ff'01'01, 1);  // says that bus 1 lies below itself
  CHECK_EQ(b.read(3, 0, 4, 1), 0xffff'ffffu);
  CHECK_EQ(b.read(3, 0, 4, 9), 0xffff'ffffu);
}

TEST(pci_addresses_are_checked) {
  Bench b;
  b.plug<Function>(3);
  for (const char* wrong : {"3", "20", "0x3.8", "x", "3.", "1.1"}) {
    auto d = make_device<Function>(*b.machine);
    CHECK(d->set("addr", Value{wrong}).has_value());
    const bool in_use = wrong[0] == '3' && wrong[1] == 0;
    if (std::string_view{wrong} == "1.1") {
      CHECK(d->attach(&b.host->root_bus()).has_value());
      continue;
    }
    auto r = d->attach(&b.host->root_bus());
    CHECK(!r.has_value());
    CHECK(r.error().message.contains(in_use ? "in use by test-pci-function" : "'addr' takes"));
  }
}

}  // namespace vmm::hw
