#include "src/memory/memory.h"

#include "src/base/bits.h"
#include "tests/unit/test.h"

using namespace vmm;
using namespace vmm::memory;

namespace {
// Registers that answer with what was asked, and remember.
struct Probe {
  struct Access {
    bool write;
    u64 offset;
    unsigned size;
    u64 value;
    bool operator==(const Access&) const = default;
  };
  std::vector<Access> seen;
  MemoryRegion region;
  u64 answer = 0x8877665544332211;
  AddressSpace* loops_into = nullptr;
  explicit Probe(std::string name, u64 size, IoSizes sizes = {}) {
    static constexpr IoOps ops{[](void* o, u64 at, unsigned n) { return static_cast<Probe*>(o)->read(at, n); },
                               [](void* o, u64 at, unsigned n, u64 v) { static_cast<Probe*>(o)->write(at, n, v); }};
    region.init_io(reinterpret_cast<Object*>(this), std::move(name), size, ops, this, sizes);
  }
  u64 read(u64 at, unsigned n) {
    seen.push_back({false, at, n, 0});
    if (loops_into) return loops_into->load(GuestPhys{at}, n);
    return answer >> (8 * (at & 7));
  }
  void write(u64 at, unsigned n, u64 v) { seen.push_back({true, at, n, v}); }
};
struct Map {
  MachineLocked lock;
  MemoryRegion root;
  AddressSpace space;
  Map() : space{"memory", container(root)} {}
  static MemoryRegion& container(MemoryRegion& root) {
    root.init_container(nullptr, "system", u128{1} << 64);
    return root;
  }
  std::string at(u64 address) const {
    const auto view = space.view();
    const FlatRange* r = view->find(address);
    return r ? format("{}+{:#x}", r->region->name(), r->offset + (address - r->first)) : "-";
  }
};
std::shared_ptr<RamBlock> block(u64 size, std::string name = "test.ram", bool rom = false) {
  return OK(RamBlock::make({.name = std::move(name), .size_bytes = size, .read_only = rom}));
}
}  // namespace

TEST(memory_priority_decides_where_regions_overlap) {
  Map m;
  MemoryRegion ram, pci, alias;
  ram.init_ram(nullptr, "ram", block(0x10000));
  Probe low{"low", 0x1000}, high{"high", 0x1000}, inside{"inside", 0x10};
  pci.init_container(nullptr, "pci", u128{1} << 64);
  alias.init_alias(nullptr, "alias", pci, 0x20000, 0x1000);
  m.root.add(ram, 0);
  m.root.add(pci, 0, -1);
  pci.add(low.region, 0x8000);
  pci.add(high.region, 0x20000);
  low.region.set_address(0xf800);  // its tail shows past the end of RAM
  low.region.add(inside.region, 0x900);
  CHECK_EQ(m.at(0xf900), std::string{"ram+0xf900"});
  CHECK_EQ(m.at(0x10000), std::string{"low+0x800"});
  CHECK_EQ(m.at(0x10100), std::string{"inside+0x0"});
  CHECK_EQ(m.at(0x10110), std::string{"low+0x910"});
  CHECK_EQ(m.at(0x10800), std::string{"-"});
  m.root.add(alias, 0x3000, 1);
  CHECK_EQ(m.at(0x3010), std::string{"high+0x10"});
  CHECK_EQ(m.at(0x4000), std::string{"ram+0x4000"});
  alias.set_alias_offset(0x10000);
  CHECK_EQ(m.at(0x3101), std::string{"inside+0x1"});
  const u64 before = m.space.generation();
  alias.set_enabled(false);
  CHECK_EQ(m.at(0x3101), std::string{"ram+0x3101"});
  CHECK(m.space.generation() > before);
}

TEST(memory_equal_priority_the_later_one_wins) {
  Map m;
  Probe a{"a", 0x100}, b{"b", 0x100};
  m.root.add(a.region, 0);
  m.root.add(b.region, 0x80);
  CHECK_EQ(m.at(0x80), std::string{"b+0x0"});
  m.root.remove(a.region);
  m.root.add(a.region, 0);
  CHECK_EQ(m.at(0x80), std::string{"a+0x80"});
}

TEST(memory_transaction_publishes_once_and_only_what_changed) {
  int changes = 0;  // outlives the regions, whose end is a change
  Map m;
  Probe a{"a", 0x100}, b{"b", 0x100};
  m.space.on_change([&] { changes++; });
  {
    Transaction outer;
    m.root.add(a.region, 0);
    m.root.add(b.region, 0x1000);
    CHECK_EQ(m.at(0), std::string{"-"});
  }
  CHECK_EQ(changes, 1);
  {
    Transaction nothing_in_the_end;
    a.region.set_enabled(false);
    a.region.set_enabled(true);
  }
  CHECK_EQ(changes, 1);
}

TEST(memory_destroyed_region_leaves_the_map) {
  Map m;
  {
    Probe a{"a", 0x100};
    m.root.add(a.region, 0);
    Transaction still_open;
    CHECK_EQ(m.at(0), std::string{"a+0x0"});
    {
      Probe b{"b", 0x100};
      m.root.add(b.region, 0x200);
    }
  }
  CHECK_EQ(m.at(0), std::string{"-"});
  CHECK_EQ(m.root.children().size(), usize{0});
}

TEST(memory_accesses_are_split_and_widened_for_the_handler) {
  Map m;
  Probe p{"p", 0x100, {.min = 2, .max = 4, .valid_min = 1, .valid_max = 8}};
  m.root.add(p.region, 0x1000);
  using A = Probe::Access;
  CHECK_EQ(m.space.load(GuestPhys{0x1000}, 8), u64{0x8877665544332211});
  CHECK((p.seen == std::vector<A>{{false, 0, 4, 0}, {false, 4, 4, 0}}));
  p.seen.clear();
  CHECK_EQ(m.space.load(GuestPhys{0x1003}, 1), u64{0x44});  // widened to the word that holds it
  CHECK((p.seen == std::vector<A>{{false, 2, 2, 0}}));
  p.seen.clear();
  m.space.store(GuestPhys{0x1001}, 4, 0xddccbbaa);  // not aligned: byte, word, byte
  CHECK((p.seen == std::vector<A>{{true, 0, 2, 0xaa00}, {true, 2, 2, 0xccbb}, {true, 4, 2, 0xdd}}));

  Probe strict{"strict", 0x10, {.min = 4, .max = 4, .valid_min = 4, .valid_max = 4}};
  m.root.add(strict.region, 0x2000);
  CHECK_EQ(m.space.load(GuestPhys{0x2000}, 2), u64{0xffff});
  CHECK(strict.seen.empty());
  std::array<u8, 16> bytes;
  CHECK(m.space.read(GuestPhys{0x2000}, bytes));  // a bus master reads in pieces that the device takes
  CHECK_EQ(strict.seen.size(), usize{4});
}

TEST(memory_port_access_is_whole_where_another_region_lies_on_its_tail) {
  Map m;
  Probe index{"pci-conf-idx", 4, {.min = 1, .max = 4}}, reset{"reset", 1, {.min = 1, .max = 1}};
  m.root.add(index.region, 0xcf8);
  m.root.add(reset.region, 0xcf9, 1);
  m.space.store(GuestPhys{0xcf8}, 4, 0x80001234);
  CHECK((index.seen == std::vector<Probe::Access>{{true, 0, 4, 0x80001234}}));
  CHECK(reset.seen.empty());
  CHECK_EQ(m.space.load(GuestPhys{0xcf9}, 1), u64{0x11});
  CHECK_EQ(m.space.load(GuestPhys{0xcfb}, 2), u64{0xff44});  // leaves the region: the second byte meets nothing
}

TEST(memory_ram_rom_and_rom_device) {
  Map m;
  MemoryRegion ram, rom, flash, shadow;
  Probe ops{"ops", 0x1000};
  ram.init_ram(nullptr, "ram", block(0x2000));
  OK(rom.init_rom(nullptr, "rom", 0x800));
  static constexpr IoOps io{[](void* o, u64 at, unsigned n) { return static_cast<Probe*>(o)->read(at, n); },
                            [](void* o, u64 at, unsigned n, u64 v) { static_cast<Probe*>(o)->write(at, n, v); }};
  OK(flash.init_rom_device(nullptr, "flash", 0x1000, io, &ops));
  shadow.init_alias(nullptr, "shadow", ram, 0x1000, 0x1000);
  m.root.add(ram, 0);
  m.root.add(rom, 0x4000);
  m.root.add(flash, 0x5000);
  m.root.add(shadow, 0x8000);
  shadow.set_read_only(true);

  m.space.store(GuestPhys{0xffe}, 4, 0x44332211);
  CHECK_EQ(m.space.load(GuestPhys{0x1000}, 2), u64{0x4433});
  CHECK_EQ(m.space.load(GuestPhys{0x8000}, 2), u64{0x4433});
  m.space.store(GuestPhys{0x8000}, 2, 0);
  CHECK_EQ(m.space.load(GuestPhys{0x1000}, 2), u64{0x4433});
  m.space.store(GuestPhys{0x4000}, 4, 5);
  CHECK_EQ(m.space.load(GuestPhys{0x4000}, 4), u64{0});
  CHECK_EQ(m.space.load(GuestPhys{0x47fe}, 4), u64{0xffff0000});
  const u8 image[] = {1, 2, 3, 4};
  CHECK(m.space.write_rom(GuestPhys{0x4000}, image));
  CHECK_EQ(m.space.load(GuestPhys{0x4000}, 4), u64{0x04030201});
  CHECK(m.space.write_rom(GuestPhys{0x5000}, image));
  CHECK(ops.seen.empty());
  CHECK_EQ(m.space.load(GuestPhys{0x5001}, 2), u64{0x0302});
  m.space.store(GuestPhys{0x5000}, 1, 0x90);
  CHECK_EQ(ops.seen.size(), usize{1});
  flash.set_romd(false);
  CHECK_EQ(m.space.load(GuestPhys{0x5000}, 2), u64{0x2211});

  std::array<u8, 0x20> bytes;
  CHECK(!m.space.read(GuestPhys{0x1ff0}, bytes));  // runs out of RAM
  CHECK_EQ(unsigned(bytes[0x1f]), 0xffu);
  CHECK(!m.space.read(GuestPhys{~u64{0} - 3}, bytes));

  const PageInfo page = m.space.page(GuestPhys{0x8123});
  CHECK(page.host == ram.ram()->host() + 0x1000 && page.read_only && page.page == ram.ram()->first_page() + 1);
  CHECK(block_of(page.page) == ram.ram().get());
  CHECK(!m.space.page(GuestPhys{0x4000}).host);  // not a whole page of ROM
}

TEST(memory_device_does_not_reach_itself) {
  Map m;
  Probe p{"p", 0x1000};
  m.root.add(p.region, 0);
  p.loops_into = &m.space;
  CHECK_EQ(m.space.load(GuestPhys{0x10}, 4), u64{0xffffffff});
  CHECK_EQ(p.seen.size(), usize{1});
  p.loops_into = nullptr;
  {
    InsideDevice timer{reinterpret_cast<Object*>(&p)};
    CHECK_EQ(m.space.load(GuestPhys{0x10}, 4), u64{0xffffffff});
  }
  CHECK_EQ(m.space.load(GuestPhys{0x10}, 4), u64{0x44332211});
}

TEST(memory_doorbells_ring_instead_of_the_handler) {
  Map m;
  Probe p{"p", 0x100};
  m.root.add(p.region, 0x1000);
  int rung = 0;
  p.region.add_doorbell({.offset = 0x10, .size = 2, .ring = [&] { rung++; }});
  p.region.add_doorbell({.offset = 0x20, .match = true, .value = 7, .ring = [&] { rung += 100; }});
  m.space.store(GuestPhys{0x1010}, 2, 1);
  m.space.store(GuestPhys{0x1010}, 4, 1);
  m.space.store(GuestPhys{0x1020}, 4, 7);
  m.space.store(GuestPhys{0x1020}, 4, 8);
  CHECK_EQ(rung, 101);
  CHECK_EQ(p.seen.size(), usize{2});
  p.region.remove_doorbell(0x10);
  m.space.store(GuestPhys{0x1010}, 2, 1);
  CHECK_EQ(rung, 101);
}

TEST(memory_writes_mark_pages_and_tell_the_translator) {
  struct Listener : CodeListener {
    std::vector<std::pair<u64, u64>> seen;
    void ram_written(RamBlock&, u64 offset, u64 length) override { seen.emplace_back(offset, length); }
  } listener;
  Map m;
  MemoryRegion ram;
  ram.init_ram(nullptr, "ram", block(200 * page_bytes));
  m.root.add(ram, 0x100000);
  RamBlock& b = *ram.ram();
  const std::vector<u8> data(3 * page_bytes);
  m.space.write(GuestPhys{0x100000}, data);
  CHECK(!b.dirty(DirtyClient::migration, 0));
  b.set_dirty_logging(DirtyClient::migration, true);
  code_listener = &listener;
  m.space.write(GuestPhys{0x100000 + 62 * page_bytes + 1}, data);
  m.space.store(GuestPhys{0x100000 + 130 * page_bytes}, 4, 1);
  code_listener = nullptr;
  CHECK((listener.seen == std::vector<std::pair<u64, u64>>{{62 * page_bytes + 1, 3 * page_bytes}, {130 * page_bytes, 4}}));
  std::vector<u64> bits;
  b.fetch_and_clear_dirty(DirtyClient::migration, 61, 80, bits);
  CHECK_EQ(bits.size(), usize{2});
  CHECK_EQ(bits[0], u64{0b11110});
  CHECK_EQ(bits[1], u64{1} << (130 - 61 - 64));
  b.fetch_and_clear_dirty(DirtyClient::migration, 0, 200, bits);
  CHECK(std::ranges::all_of(bits, [](u64 w) { return !w; }));
}

TEST(memory_page_numbers_are_dense_and_used_again) {
  auto a = block(4 * page_bytes, "a"), b = block(page_bytes, "b"), c = block(4 * page_bytes, "a");
  CHECK_EQ(c->name(), std::string{"a#2"});
  const PageNumber first = a->first_page();
  CHECK(block_of(b->first_page()) == b.get());
  a.reset();
  CHECK(block_of(first) == nullptr);
  a = block(3 * page_bytes, "d");
  CHECK_EQ(a->first_page(), first);
  CHECK(!RamBlock::make({.name = "empty"}) && !RamBlock::make({.name = "huge", .size_bytes = ~u64{0}}));
  auto shared = OK(RamBlock::make({.name = "shared", .size_bytes = 100, .share = true}));
  CHECK(shared->fd() >= 0 && shared->size_bytes() == page_bytes);
}

TEST(memory_readers_never_see_a_torn_map) {
  MemoryRegion root;
  Map::container(root);
  AddressSpace space{"memory", root};
  MemoryRegion ram, window;
  ram.init_ram(nullptr, "ram", block(0x4000));
  {
    MachineLocked lock;
    window.init_alias(nullptr, "window", ram, 0, 0x1000);
    Transaction t;
    root.add(ram, 0);
    root.add(window, 0x10000);
  }
  space.store(GuestPhys{0}, 8, 1);
  space.store(GuestPhys{0x1000}, 8, 1);
  std::atomic<bool> stop{false};
  std::atomic<u64> wrong{0};
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; i++)
    readers.emplace_back([&] {
      while (!stop)
        if (space.load(GuestPhys{0x10000}, 8) != 1) wrong++;
    });
  for (int i = 0; i < 2000; i++) {
    MachineLocked lock;
    window.set_alias_offset(i % 2 ? 0 : 0x1000);
    if (i % 100 == 0) wait_for_readers();
  }
  stop = true;
  for (auto& r : readers) r.join();
  CHECK_EQ(wrong.load(), u64{0});
}

TEST(memory_tree_is_printed_as_people_know_it) {
  Map m;
  MemoryRegion ram, alias, pci, bus;
  ram.init_ram(nullptr, "pc.ram", block(0x8000000));
  alias.init_alias(nullptr, "ram-below-4g", ram, 0, 0x8000000);
  pci.init_container(nullptr, "pci", u128{1} << 64);
  Probe vga{"vga-lowmem", 0x20000};
  m.root.add(alias, 0);
  m.root.add(pci, 0, -1);
  pci.add(vga.region, 0xa0000, 1);
  bus.init_container(nullptr, "bus master container", u128{1} << 64);
  AddressSpace master{"e1000", bus};
  const std::string tree = describe_tree(false), flat = describe_tree(true);
  CHECK(tree.find("address-space: memory\n"
                  "  0000000000000000-ffffffffffffffff (prio 0, i/o): system\n"
                  "    0000000000000000-0000000007ffffff (prio 0, ram): alias ram-below-4g @pc.ram 0000000000000000-0000000007ffffff\n"
                  "    0000000000000000-ffffffffffffffff (prio -1, i/o): pci\n"
                  "      00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem\n\n") != std::string::npos);
  CHECK(tree.find("memory-region: pc.ram\n  0000000000000000-0000000007ffffff (prio 0, ram): pc.ram\n\n") != std::string::npos);
  CHECK(flat.find(" AS \"memory\", root: system\n Root memory region: system\n"
                  "  0000000000000000-0000000007ffffff (prio 0, ram): pc.ram\n\n") != std::string::npos);
  CHECK(flat.find(" AS \"e1000\", root: bus master container\n Root memory region: (none)\n  No rendered FlatView\n\n") !=
        std::string::npos);
}
