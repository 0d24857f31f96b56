// The boards as a whole, with CPUs that never run.
#include "hw/machine/pc_board.h"
#include "src/base/bits.h"
#include "src/x86/model.h"
#include "tests/unit/test.h"

namespace vmm::hw {
namespace {

class IdleVcpu final : public vm::Vcpu {
 public:
  IdleVcpu(vm::Machine& m, unsigned index, u32 id, const x86::CpuModel& model) : Vcpu(m, index, id, model) {}
  void post(vm::Request request) override { posted |= static_cast<u32>(request); }
  void run(std::function<void()> work) override { work(); }
  Result<> start() override { return {}; }
  void resume() override {}
  void request_stop() override {}
  void wait_stopped() override {}
  void finish() override {}
  int host_thread_id() const override { return 0; }
  bool halted() const override { return true; }
  u64 read_tsc() override { return 0; }
  u64 tsc_hz() const override { return 1'000'000'000; }
  Result<GuestPhys> translate(GuestVirt) override { return fail("idle"); }
  u32 posted = 0;
};

class IdleAccelerator final : public vm::Accelerator {
 public:
  static inline constinit const TypeInfo type{
      .name = "test-accel", .doc = "CPUs that never run.", .parent = &vm::Accelerator::type, .user_creatable = false};
  IdleAccelerator() { features_.word.fill(~u32{0}); }
  std::string_view short_name() const override { return "test"; }
  Result<> init(vm::Machine&) override { return {}; }
  Result<std::unique_ptr<vm::Vcpu>> make_vcpu(vm::Machine& m, unsigned index, u32 id, const x86::CpuModel& model) override {
    return std::unique_ptr<vm::Vcpu>{std::make_unique<IdleVcpu>(m, index, id, model)};
  }
  const x86::FeatureWords& supported_features() const override { return features_; }

 private:
  x86::FeatureWords features_;
};

struct Board {
  MachineLocked locked;
  EventLoop loop;
  Ref<PcBoard> m;
  explicit Board(std::string_view type, u64 ram = 128 * MiB, unsigned cpus = 1) {
    const vm::MachineTypeInfo* info = vm::find_machine_type(type);
    CHECK(info);
    m = object_cast<PcBoard>(make_object(*info->type));
    CHECK(m);
    m->time_domain().use_manual_time();
    m->attach_loop(loop);
    m->time_domain().start_guest_clock();
    m->config.ram_bytes = ram;
    m->config.smp.cpus = m->config.smp.max_cpus = m->config.smp.sockets = cpus;
    m->set_accelerator(make_object<IdleAccelerator>());
    if (auto f = m->find_firmware("bios-256k.bin"); !f) test::skip("no SeaBIOS on this host");
    auto done = m->realize();
    if (!done) test::failed("realize", __FILE__, __LINE__, done.error().message);
    done = m->finish();
    if (!done) test::failed("finish", __FILE__, __LINE__, done.error().message);
    m->reset(vm::Cause::none);
  }
  ~Board() { loop.remove_time_domain(m->time_domain()); }
  u32 in(u16 port, unsigned size) { return static_cast<u32>(m->ports().load(GuestPhys{port}, size)); }
  void out(u16 port, unsigned size, u32 value) { m->ports().store(GuestPhys{port}, size, value); }
  u8 cmos(u8 index) { return out(0x70, 1, index), static_cast<u8>(in(0x71, 1)); }
  u32 pci(u8 slot, u8 function, u8 at) { return out(0xcf8, 4, 0x8000'0000u | u32{slot} << 11 | u32{function} << 8 | at), in(0xcfc, 4); }
  void set_pci(u8 slot, u8 function, u8 at, u32 value) {
    out(0xcf8, 4, 0x8000'0000u | u32{slot} << 11 | u32{function} << 8 | at), out(0xcfc, 4, value);
  }
};

}  // namespace

TEST(pc_board_shows_its_functions_firmware_and_cmos) {
  Board b{"pc", 128 * MiB, 2};
  CHECK_EQ(b.pci(0, 0, 0), 0x1237'8086u);
  CHECK_EQ(b.pci(1, 0, 0), 0x7000'8086u);
  CHECK_EQ(b.pci(1, 3, 0), 0x7113'8086u);
  CHECK_EQ(b.pci(2, 0, 0), 0x1111'1234u);
  CHECK_EQ(b.pci(3, 0, 0), 0xffff'ffffu);
  CHECK_EQ(b.m->memory().load(GuestPhys{0xffff'fff0}, 1), 0xeau);  // a far jump
  CHECK_EQ(b.m->memory().load(GuestPhys{0xf'fff0}, 1), 0xeau);
  b.m->memory().store(GuestPhys{0xffff'fff0}, 1, 0);
  CHECK_EQ(b.m->memory().load(GuestPhys{0xffff'fff0}, 1), 0xeau);
  CHECK_EQ(b.cmos(0x16), u8{0x02});
  CHECK_EQ(b.cmos(0x35), u8{0x07});
  CHECK_EQ(b.cmos(0x5f), u8{1});
  CHECK_EQ(b.cmos(0x3d), u8{0x12});
  CHECK_EQ(b.cmos(0x38), u8{0x30});
  const auto* e820 = b.m->fw_cfg().file("etc/e820");
  CHECK(e820 && e820->size() % 20 == 0);
  CHECK(b.m->fw_cfg().file("etc/acpi/tables"));
}

TEST(pc_board_splits_ram_around_the_pci_hole) {
  Board b{"pc", 4 * GiB};
  b.m->memory().store(GuestPhys{0x1'3fff'fff0}, 4, 0x1234);
  CHECK_EQ(b.m->memory().load(GuestPhys{0x1'3fff'fff0}, 4), 0x1234u);
  CHECK_EQ(b.m->memory().load(GuestPhys{0xc000'0000}, 4), 0xffff'ffffu);
  CHECK_EQ(b.m->memory().load(GuestPhys{0xbfff'fff0}, 4), 0u);
  CHECK_EQ(b.cmos(0x35), u8{0xbf});
  CHECK_EQ(b.cmos(0x5c), u8{0x40});
}

TEST(pc_board_power_management_timer_and_power_button) {
  Board b{"pc"};
  b.set_pci(1, 3, 0x40, 0x600), b.set_pci(1, 3, 0x80, 1);
  const u32 before = b.in(0x608, 4);
  b.m->time_domain().advance(1s);
  CHECK_EQ(b.in(0x608, 4) - before, 3'579'545u);
  b.out(0xb2, 1, 0xf1);
  CHECK_EQ(b.in(0x604, 2) & 1, 1u);
  b.out(0x602, 2, 0x100);
  b.m->run_state().request_powerdown();
  while (b.loop.run_once(false)) {
  }
  CHECK(b.in(0x600, 2) & 0x100);
  b.out(0x600, 2, 0x100);
  CHECK(!(b.in(0x600, 2) & 0x100));
  // The timer's top bit changes 2^23 ticks on.
  b.out(0x602, 2, 1), b.out(0x600, 2, 1);
  b.m->time_domain().advance(3s);
  CHECK(b.in(0x600, 2) & 1);
}

TEST(pc_board_routes_pci_interrupts_to_pic_lines) {
  Board b{"pc"};
  // Unmask everything with vectors 8 and 0x70; read the request registers.
  for (u16 base : {0x20, 0xa0}) {
    b.out(base, 1, 0x11), b.out(base + 1, 1, base == 0x20 ? 8 : 0x70), b.out(base + 1, 1, base == 0x20 ? 4 : 2), b.out(base + 1, 1, 1);
    b.out(base + 1, 1, 0xff), b.out(base, 1, 0x0a);
  }
  b.out(0x4d1, 1, 0x0c);  // 10 and 11 level-triggered
  b.set_pci(1, 0, 0x60, 0x0b0a'8080);
  PciDevice* vga = nullptr;
  for_each_device(*b.m, [&](Device& d) {
    if (d.type_info().name == "VGA") vga = static_cast<PciDevice*>(&d);
  });
  CHECK(vga);
  vga->config()[0x3d] = 2;  // INTB of slot 2: (2 - 1 + 1) & 3 = PIRQC
  vga->set_intx(true);
  CHECK_EQ(b.in(0xa0, 1), 0x04u);
  b.set_pci(1, 0, 0x60, 0x0b0b'8080);
  CHECK_EQ(b.in(0xa0, 1) & 0x08u, 0x08u);
  vga->set_intx(false);
  CHECK_EQ(b.in(0xa0, 1) & 0x0cu, 0u);
}

TEST(pc_board_survives_register_noise) {
  for (const char* type : {"pc", "q35"}) {
    Board b{type, 16 * MiB};
    u32 seed = 7;
    auto next = [&] { return seed = seed * 1664525 + 1013904223; };
    for (int i = 0; i < 30'000; i++) {
      const u16 ports[] = {0xcf8, 0xcfc, 0xcfd, 0xcfe, 0x510, 0x511, 0x514, 0x518, 0xb2, 0xb3, 0x600, 0x604, 0x608, 0x620, 0x630};
      const u16 port = i % 3 ? ports[next() >> 16 & 0xf % 15] : static_cast<u16>(next() >> 16);
      const unsigned size = 1u << (next() >> 30) % 3;
      if (port == 0xcf8 || i % 5 == 0) b.out(0xcf8, 4, 0x8000'0000u | (next() >> 16 & 0xfffc) % 0x1'0000 | (next() >> 31 ? 31u << 11 : 0));
      if (next() >> 31)
        b.out(port, size, next());
      else
        (void)b.in(port, size);
      if (i % 1000 == 0) {
        b.m->reset(vm::Cause::none);
        while (b.loop.run_once(false)) {
        }
      }
    }
  }
}

TEST(q35_board_has_ecam_tseg_and_gsis) {
  Board b{"q35", 256 * MiB};
  CHECK_EQ(b.pci(0, 0, 0), 0x29c0'8086u);
  CHECK_EQ(b.pci(31, 0, 0), 0x2918'8086u);
  CHECK_EQ(b.pci(1, 0, 0), 0x1111'1234u);
  auto& m = b.m->memory();
  CHECK_EQ(m.load(GuestPhys{0xb000'0000}, 4), 0xffff'ffffu);
  b.set_pci(0, 0, 0x60, 0xb000'0001);
  CHECK_EQ(m.load(GuestPhys{0xb000'0000}, 4), 0x29c0'8086u);
  CHECK_EQ(m.load(GuestPhys{0xb000'0000 + (31u << 15)}, 2), 0x8086u);
  CHECK_EQ(m.load(GuestPhys{0xb000'0000 + 0x100}, 4), 0xffff'ffffu);  // no extended capabilities
  CHECK_EQ(m.load(GuestPhys{0xb010'0000}, 4), 0xffff'ffffu);          // bus 1
  // TSEG: 8 MiB at the top vanish for all but SMM.
  const u64 tseg = 256 * MiB - 8 * MiB;
  m.store(GuestPhys{tseg}, 4, 0x55aa);
  b.set_pci(0, 0, 0x9c, 0x053d'0a00 & 0xffff'ff00);  // SMRAM 0x0a: G_SMRAME; ESMRAMC
  b.out(0xcf8, 4, 0x8000'009c), b.out(0xcfd, 1, 0x0a), b.out(0xcfe, 1, 0x3d);
  CHECK_EQ(m.load(GuestPhys{tseg}, 4), 0xffff'ffffu);
  CHECK_EQ(b.m->vcpus()[0]->smm_memory().load(GuestPhys{tseg}, 4), 0x55aau);
  // PIRQ of slot 1 INTA is F: GSI 21.
  b.m->reset(vm::Cause::none);
  CHECK_EQ(m.load(GuestPhys{tseg}, 4), 0x55aau);
}

TEST(machine_types_have_versions_and_aliases) {
  CHECK(vm::find_machine_type("pc-i440fx-2.12"));
  CHECK(vm::find_machine_type("pc-q35-4.0.1"));
  CHECK_EQ(vm::find_machine_type("pc")->name, std::string_view("pc-i440fx-8.2"));
  CHECK_EQ(vm::find_machine_type("q35")->name, std::string_view("pc-q35-8.2"));
  CHECK(vm::find_machine_type("pc")->is_default);
  CHECK(version_of_type("pc-q35-4.0.1-machine") == (MachineVersion{4, 0, 1}));
}

}  // namespace vmm::hw
