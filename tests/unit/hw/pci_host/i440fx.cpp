#include "hw/pci_host/i440fx.h"

#include "tests/unit/hw/test_machine.h"
#include "tests/unit/test.h"

namespace vmm::hw {

TEST(i440fx_pam_and_smram_choose_between_ram_and_pci) {
  MachineLocked locked;
  auto machine = test::TestMachine::make(16 * MiB);
  memory::MemoryRegion pci, rom;
  pci.init_container(nullptr, "pci", u128{1} << 64);
  CHECK(rom.init_rom(nullptr, "test.rom", 0x40000).has_value());
  std::memset(rom.ram()->host(), 0xee, 0x40000);
  pci.add(rom, 0xc0000);
  machine->memory_root().add(pci, 0, -1);
  auto host = make_device<I440fxHost>(*machine);
  host->wire(pci, machine->port_root(), machine->memory());
  CHECK(host->attach(nullptr).has_value());
  auto north = make_device<I440fx>(*machine);
  north->set_address(0, 0);
  north->wire(machine->memory_root(), pci);
  CHECK(north->attach(&host->root_bus()).has_value());
  north->reset_tree();

  auto& m = machine->memory();
  auto config = [&](u8 at, u8 value) {
    machine->out(0xcf8, 4, 0x8000'0000u | (at & 0xfc));
    machine->out(static_cast<u16>(0xcfc + (at & 3)), 1, value);
  };
  auto byte = [&](u64 at) { return m.load(GuestPhys{at}, 1); };
  // Reset: all of it is PCI.
  m.store(GuestPhys{0xf0000}, 1, 1);
  CHECK_EQ(byte(0xf0000), 0xeeu);
  config(0x59, 0x30);  // 0xf0000: RAM
  m.store(GuestPhys{0xf0000}, 1, 0x55);
  CHECK_EQ(byte(0xf0000), 0x55u);
  config(0x59, 0x10);  // read-only RAM
  m.store(GuestPhys{0xf0000}, 1, 0x66);
  CHECK_EQ(byte(0xf0000), 0x55u);
  CHECK_EQ(byte(0xec000), 0xeeu);
  config(0x5f, 0x30);  // upper nibble: 0xec000
  CHECK_EQ(byte(0xec000), 0u);
  CHECK_EQ(byte(0xe8000), 0xeeu);
  config(0x5a, 0x03);  // lower nibble: 0xc0000
  CHECK_EQ(byte(0xc0000), 0u);
  CHECK_EQ(byte(0xc4000), 0xeeu);
  // SMRAM: opened, it is RAM for all; closed and locked, never again.
  m.store(GuestPhys{0xa0000}, 1, 7);
  CHECK_EQ(byte(0xa0000), 0xffu);
  config(0x72, 0x48);
  m.store(GuestPhys{0xa0000}, 1, 7);
  CHECK_EQ(byte(0xa0000), 7u);
  config(0x72, 0x18);
  CHECK_EQ(byte(0xa0000), 0xffu);
  config(0x72, 0x48);
  CHECK_EQ(byte(0xa0000), 0xffu);
  north->reset_tree();
  CHECK_EQ(byte(0xf0000), 0xeeu);
  pci.remove(rom);
  machine->memory_root().remove(pci);
}

}  // namespace vmm::hw
