// Local APIC and I/O APIC: priorities, destinations, IPIs, timer modes, x2APIC, end of level interrupts.
#include "hw/intc/apic.h"

#include "hw/intc/i8259.h"
#include "hw/intc/ioapic.h"
#include "tests/unit/hw/bench.h"

namespace vmm::test {

namespace {
using vm::Request;
constexpr u32 r_tpr = 0x80, r_ppr = 0xa0, r_eoi = 0xb0, r_ldr = 0xd0, r_dfr = 0xe0, r_svr = 0xf0, r_isr = 0x100, r_irr = 0x200,
              r_esr = 0x280, r_icr = 0x300, r_icr2 = 0x310, r_timer = 0x320, r_lint0 = 0x350, r_error = 0x370, r_initial = 0x380,
              r_current = 0x390, r_divide = 0x3e0;

struct Cpus {
  DeviceBench bench;
  hw::ApicFabric fabric;
  std::vector<Ref<hw::Apic>> apics;
  std::vector<BenchVcpu*> cpus;
  explicit Cpus(unsigned count = 1) {
    for (unsigned i = 0; i < count; i++) {
      cpus.push_back(&bench.add_vcpu());
      auto apic = hw::make_device<hw::Apic>(bench.machine(), "lapic[*]");
      apic->wire(*cpus.back(), fabric, i == 0);
      OK(apic->attach(nullptr));
      apic->write_page(r_svr, 0x1ff);
      apics.push_back(apic);
    }
  }
  ~Cpus() {
    for (auto& a : apics) a->detach().start({});
  }
  hw::Apic& operator[](unsigned n) { return *apics[n]; }
  void ipi(unsigned from, u32 destination, u32 command) {
    apics[from]->write_page(r_icr2, destination << 24);
    apics[from]->write_page(r_icr, command);
  }
};
}  // namespace

TEST(apic_reset_values) {
  Cpus c{2};
  CHECK_EQ(c[0].base_msr(), 0xfee00900u);
  CHECK_EQ(c[1].base_msr(), 0xfee00800u);
  CHECK_EQ(c[1].read_page(0x20), 1u << 24);
  CHECK_EQ(c[0].read_page(0x30), 0x50014u);
  CHECK_EQ(c[0].read_page(r_lint0), 0x700u);
  CHECK_EQ(c[1].read_page(r_lint0), 0x10000u);
}

TEST(apic_takes_by_priority_and_holds_back_what_is_not_higher) {
  Cpus c;
  auto& a = c[0];
  a.accept(hw::DeliveryMode::fixed, 0x41, false);
  a.accept(hw::DeliveryMode::fixed, 0x52, false);
  CHECK(c.cpus[0]->take(Request::interrupt));
  CHECK(a.pending());
  CHECK_EQ(a.acknowledge(), 0x52);
  CHECK_EQ(a.read_page(r_ppr), 0x50u);
  CHECK(!a.pending());
  a.accept(hw::DeliveryMode::fixed, 0x5f, false);  // same class
  CHECK(!a.pending());
  a.accept(hw::DeliveryMode::fixed, 0x60, false);
  CHECK_EQ(a.acknowledge(), 0x60);
  CHECK_EQ(a.read_page(r_isr + 0x20), 1u << 18);
  a.write_page(r_eoi, 0);
  CHECK(!a.pending());
  a.write_page(r_eoi, 0);
  CHECK_EQ(a.acknowledge(), 0x5f);
  a.write_page(r_eoi, 0);
  a.set_tpr(0x40);
  CHECK(!a.pending());
  CHECK_EQ(a.acknowledge(), -1);
  c.cpus[0]->posted = 0;
  a.set_tpr(0x30);
  CHECK(c.cpus[0]->take(Request::interrupt));
  CHECK_EQ(a.acknowledge(), 0x41);
}

TEST(apic_destinations_physical_flat_cluster_and_shorthands) {
  Cpus c{3};
  c.ipi(0, 1, 0x31);
  CHECK(!c[0].pending() && c[1].pending() && !c[2].pending());
  {
    CHECK_EQ(c[1].acknowledge(), 0x31);
    c[1].write_page(r_eoi, 0);
  }
  for (unsigned i = 0; i < 3; i++) c[i].write_page(r_ldr, 1u << (24 + i));
  c.ipi(1, 0x05, 0x832);  // flat logical: CPUs 0 and 2
  CHECK(c[0].pending() && !c[1].pending() && c[2].pending());
  for (unsigned i : {0, 2}) {
    CHECK_EQ(c[i].acknowledge(), 0x32);
    c[i].write_page(r_eoi, 0);
  }
  for (unsigned i = 0; i < 3; i++) c[i].write_page(r_dfr, 0x0fff'ffff), c[i].write_page(r_ldr, (0x10u | 1u << i) << 24);
  c.ipi(0, 0x12, 0x833);  // cluster 1, member 1
  CHECK(!c[0].pending() && c[1].pending() && !c[2].pending());
  {
    CHECK_EQ(c[1].acknowledge(), 0x33);
    c[1].write_page(r_eoi, 0);
  }
  c.ipi(2, 0, 0xc0034);  // all but self
  CHECK(c[0].pending() && c[1].pending() && !c[2].pending());
  c.ipi(2, 0, 0x40035);  // self
  CHECK(c[2].pending());
}

TEST(apic_init_and_startup_reach_the_other_cpu) {
  Cpus c{2};
  c.cpus[1]->posted = 0;
  c.ipi(0, 1, 0x4500);
  CHECK(c.cpus[1]->take(Request::init));
  c.ipi(0, 1, 0x8500);  // de-assert: nothing
  CHECK(!c.cpus[1]->take(Request::init));
  c.ipi(0, 1, 0x4608);
  CHECK(c.cpus[1]->take(Request::sipi));
  CHECK_EQ(c.cpus[1]->take_sipi_vector(), 8);
  c.ipi(0, 1, 0x4400);
  CHECK(c.cpus[1]->take(Request::nmi));
  CHECK(!c.cpus[0]->take(Request::nmi));
}

TEST(apic_timer_one_shot_periodic_and_deadline) {
  Cpus c;
  auto& a = c[0];
  a.write_page(r_divide, 0x3);  // by 16
  a.write_page(r_timer, 0x40);
  a.write_page(r_initial, 62500);  // 1 ms at 1 GHz
  c.bench.advance(500us);
  CHECK_EQ(a.read_page(r_current), 31250u);
  CHECK(!a.pending());
  c.bench.advance(501us);
  {
    CHECK_EQ(a.acknowledge(), 0x40);
    a.write_page(r_eoi, 0);
  }
  CHECK_EQ(a.read_page(r_current), 0u);
  a.write_page(r_timer, 0x20041);
  a.write_page(r_initial, 62500);
  for (int i = 0; i < 5; i++) {
    c.bench.advance(1ms);
    {
      CHECK_EQ(a.acknowledge(), 0x41);
      a.write_page(r_eoi, 0);
    }
  }
  a.write_page(r_timer, 0x30041);  // masked
  c.bench.advance(5ms);
  CHECK(!a.pending());
  a.write_page(r_timer, 0x40042);
  CHECK_EQ(a.tsc_deadline(), 0u);
  a.set_tsc_deadline(c.cpus[0]->read_tsc() + 2'000'000);  // 1 ms at 2 GHz
  c.bench.advance(999us);
  CHECK(!a.pending());
  c.bench.advance(2us);
  {
    CHECK_EQ(a.acknowledge(), 0x42);
    a.write_page(r_eoi, 0);
  }
  CHECK_EQ(a.tsc_deadline(), 0u);
  a.set_tsc_deadline(1);  // in the past
  CHECK_EQ(a.acknowledge(), 0x42);
}

TEST(apic_x2apic_mode) {
  Cpus c{3};
  auto& a = c[2];
  u64 v = 0;
  CHECK(!a.read_x2apic(0x802, v));
  CHECK(!a.set_base_msr(0xfee00400));  // EXTD without EN
  CHECK(a.set_base_msr(0xfee00c00));
  CHECK(!a.set_base_msr(0xfee00800));  // not back without going through off
  CHECK(a.read_x2apic(0x802, v) && v == 2);
  CHECK(a.read_x2apic(0x80d, v) && v == 4);
  CHECK(!a.write_x2apic(0x80d, 1));
  CHECK(!a.write_x2apic(0x80b, 1));
  CHECK(a.write_x2apic(0x83f, 0x51));
  CHECK_EQ(a.acknowledge(), 0x51);
  CHECK(a.write_x2apic(0x80b, 0));
  CHECK(a.write_x2apic(0x830, u64{1} << 32 | 0x61));
  CHECK(c[1].pending() && !c[0].pending());
  CHECK(a.set_base_msr(0xfee00000));
  CHECK(!a.read_x2apic(0x802, v));
}

TEST(apic_errors_are_latched_by_a_write) {
  Cpus c;
  auto& a = c[0];
  a.write_page(r_error, 0xfe);
  c.ipi(0, 0, 0x05);  // vector 5
  CHECK_EQ(a.read_page(r_esr), 0u);
  a.write_page(r_esr, 0);
  CHECK_EQ(a.read_page(r_esr), 0x20u);
  CHECK_EQ(a.acknowledge(), 0xfe);
  a.write_page(r_error, 0x03);  // an error vector that is illegal itself
  a.accept(hw::DeliveryMode::fixed, 3, false);
  a.write_page(r_esr, 0);
  CHECK_EQ(a.read_page(r_esr), 0x40u);
}

TEST(apic_passes_the_pic_through_lint0_of_the_first_cpu) {
  Cpus c{2};
  hw::PicPair pics;
  OK(pics.make(c.bench.machine(), c.bench.isa()));
  c.fabric.set_pic(pics);
  c.bench.out8(0x20, 0x11), c.bench.out8(0x21, 0x08), c.bench.out8(0x21, 4), c.bench.out8(0x21, 1), c.bench.out8(0x21, 0);
  pics.set_input(0, true);
  CHECK(c.cpus[0]->take(Request::interrupt) && !c.cpus[1]->take(Request::interrupt));
  CHECK(c[0].pending() && !c[1].pending());
  CHECK_EQ(c[0].acknowledge(), 0x08);
  CHECK(!c[0].pending());
  c[0].write_page(r_lint0, 0x10700);
  pics.set_input(0, false), c.bench.out8(0x20, 0x20), pics.set_input(0, true);
  CHECK(!c[0].pending());
  CHECK(c[0].set_base_msr(0xfee00100));  // APIC off: INTR goes straight in
  CHECK_EQ(c[0].acknowledge(), 0x08);
}

TEST(apic_state_survives_save_and_load) {
  Cpus c;
  auto& a = c[0];
  a.write_page(r_divide, 0xb), a.write_page(r_timer, 0x20041), a.write_page(r_initial, 1'000'000);
  a.accept(hw::DeliveryMode::fixed, 0x77, true);
  const Value state = a.save();
  a.hw::Device::reset_tree();
  CHECK(!a.pending());
  OK(a.load(state));
  CHECK(a.save() == state);
  {
    CHECK_EQ(a.acknowledge(), 0x77);
    a.write_page(r_eoi, 0);
  }
  c.bench.advance(1ms);
  CHECK_EQ(a.acknowledge(), 0x41);
}

namespace {
struct Io : Cpus {
  Ref<hw::IoApic> io = hw::make_device<hw::IoApic>(bench.machine());
  Io() : Cpus(2) {
    io->wire(fabric);
    OK(io->attach(nullptr));
    bench.machine().memory_root().add(io->region(), 0xfec00000);
  }
  ~Io() { io->detach().start({}); }
  void set(unsigned reg, u32 value) { bench.write32(0xfec00000, reg), bench.write32(0xfec00010, value); }
  u32 get(unsigned reg) { return bench.write32(0xfec00000, reg), bench.read32(0xfec00010); }
};
}  // namespace

TEST(ioapic_version_and_masked_reset) {
  Io s;
  CHECK_EQ(s.get(1), 0x170020u);
  CHECK_EQ(s.get(0x10), 0x10000u);
  s.set(0, 0x0f000000);
  CHECK_EQ(s.get(0), 0x0f000000u);
}

TEST(ioapic_edge_is_sent_once_and_lost_while_masked) {
  Io s;
  s.io->set_input(4, true);
  s.set(0x10 + 8, 0x34);
  CHECK(!s[0].pending());
  s.io->set_input(4, false), s.io->set_input(4, true);
  CHECK_EQ(s[0].acknowledge(), 0x34);
  s[0].write_page(r_eoi, 0);
  CHECK(!s[0].pending());
  s.set(0x14, 0x30), s.set(0x15, 1u << 24);
  s.io->set_input(0, true);  // the PIT comes in on pin 2
  CHECK_EQ(s[1].acknowledge(), 0x30);
}

TEST(ioapic_level_comes_again_until_the_line_falls) {
  Io s;
  s.set(0x10 + 2 * 11, 0x8051);
  s.io->set_input(11, true);
  CHECK_EQ(s[0].acknowledge(), 0x51);
  CHECK_EQ(s.get(0x10 + 2 * 11) & 0x4000, 0x4000u);
  CHECK(!s[0].pending());
  s[0].write_page(r_eoi, 0);
  CHECK_EQ(s[0].acknowledge(), 0x51);
  s.io->set_input(11, false);
  s[0].write_page(r_eoi, 0);
  CHECK(!s[0].pending());
  CHECK_EQ(s.get(0x10 + 2 * 11) & 0x4000, 0u);
}

TEST(msi_writes_reach_their_cpu) {
  Io s;
  s.bench.machine().memory_root().add(s.fabric.msi_region(), 0xfee00000, 4096);
  s.bench.write32(0xfee01000, 0x4055);
  CHECK(s[1].pending() && !s[0].pending());
  CHECK_EQ(s[1].acknowledge(), 0x55);
  s.fabric.deliver_msi(0xfee00000, 0x0400);
  CHECK(s.cpus[0]->take(Request::nmi));
  s.bench.machine().memory_root().remove(s.fabric.msi_region());
}

}  // namespace vmm::test
