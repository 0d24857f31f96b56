// A bare x86 machine for tests: flat RAM, recorded ports, the interpreter; no devices, no threads.
#pragma once

#include <deque>
#include <map>
#include <string>

#include "accel/tcg/run/loop.h"
#include "accel/tcg/run/smc.h"
#include "tests/unit/test.h"

namespace vmm::tcg {

class X86Bench {
 public:
  explicit X86Bench(u64 ram_bytes = 2 * MiB, std::string_view model = "max", const char* engine = getenv("VMM_TEST_ENGINE")) {
    MachineLocked locked;
    static unsigned number = 0;
    root_.init_container(nullptr, "bench", u128{1} << 64);
    ports_root_.init_container(nullptr, "bench-io", 0x10000);
    ram_ = OK(memory::RamBlock::make({.name = format("bench.ram{}", number++), .size_bytes = ram_bytes}));
    ram_region_.init_ram(nullptr, "bench.ram", ram_);
    ports_.init_io(nullptr, "bench.ports", 0x10000,
                   memory::MemoryRegion::member_ops<&X86Bench::port_read, &X86Bench::port_write, X86Bench>(), this);
    root_.add(ram_region_, 0);
    ports_root_.add(ports_, 0);
    memory_ = std::make_unique<memory::AddressSpace>("bench", root_);
    port_space_ = std::make_unique<memory::AddressSpace>("bench-io", ports_root_);
    model_ = OK(vmm::x86::resolve_model(model, vmm::x86::tcg_features(), "tcg"));
    vmm::x86::reset(state, false, true);
    system.memory = memory_.get();
    system.ports = port_space_.get();
    system.model = &model_;
    system.code_pages = &code_pages();
    system.triple_fault = [](void* self) { static_cast<X86Bench*>(self)->shut_down = true; };
    system.machine_self = this;
    x86::prepare(system);
    loop = std::make_unique<VcpuLoop>(
        store_, system,
        [](void* self, u64 page, const u8*) {
          auto& bench = *static_cast<X86Bench*>(self);
          x86::drop_writes_of(bench.cpu, static_cast<memory::PageNumber>(page));
          if (bench.loop->tier()) bench.loop->tier()->drop_writes(page);
          code_pages().get(page)->fills = 0;
        },
        this);
    watch_.on_logging([this](memory::RamBlock&) { x86::flush_writes(cpu); });
    // The same tests by E1, or by E1 and the interpreter compared: VMM_TEST_ENGINE=e1, =verify.
    if (engine && std::string_view{engine} != "interp") {
      tier_ = OK(FirstTier::make(store_, 16 * MiB));
      if (const auto added = loop->add_tier(*tier_); !added) test::failed("E1 starts", __FILE__, __LINE__, added.error().message);
      if (std::string_view{engine} == "verify") loop->tier()->set_verify();
    }
  }
  ~X86Bench() {
    MachineLocked locked;
    loop.reset();
    store_.invalidate_all();
    tier_.reset();
    root_.remove(ram_region_);
    ports_root_.remove(ports_);
  }

  memory::RamBlock& block() { return *ram_; }
  u8* ram(u64 at) { return ram_->host() + at; }
  template <class T>
  void put(u64 at, T value) {
    std::memcpy(ram(at), &value, sizeof value);
  }
  template <class T>
  T get(u64 at) {
    T value;
    std::memcpy(&value, ram(at), sizeof value);
    return value;
  }
  void code(u64 at, std::initializer_list<u8> bytes) { std::memcpy(ram(at), std::data(bytes), bytes.size()); }
  // Memory was changed behind the engines' back.
  void drop_blocks() { store_.invalidate_all(); }
  // Real mode at 0:ip.
  void start_real(u16 ip) {
    state.segment[vmm::x86::cs] = {.selector = 0, .attributes = 0x9b, .limit = 0xffff, .base = 0};
    state.rip = ip;
    x86::mode_changed(cpu);
  }
  // Flat 32-bit protected mode at level 0; a GDT at 0x1000 with code 8, data 0x10, code 0x1b, data 0x23 (level 3), TSS 0x28 at 0x2000.
  void start_protected(u64 ip) {
    using namespace vmm::x86;
    put<u64>(0x1008, 0x00cf'9b00'0000'ffff), put<u64>(0x1010, 0x00cf'9300'0000'ffff);
    put<u64>(0x1018, 0x00cf'fb00'0000'ffff), put<u64>(0x1020, 0x00cf'f300'0000'ffff);
    put<u64>(0x1028, 0x0000'8900'2000'0067);
    state.gdtr = {.base = 0x1000, .limit = 0xff};
    state.idtr = {.base = 0x1800, .limit = 0x7ff};
    state.cr0 = cr0_pe | cr0_et;
    state.segment.fill({.selector = 0x10, .attributes = 0xc093, .limit = 0xffff'ffff, .base = 0});
    state.segment[cs] = {.selector = 8, .attributes = 0xc09b, .limit = 0xffff'ffff, .base = 0};
    state.tr = {.selector = 0x28, .attributes = 0x8b, .limit = 0x67, .base = 0x2000};
    put<u32>(0x2004, 0x7000), put<u32>(0x2008, 0x10);
    state.gpr[rsp] = 0x8000;
    state.rip = ip;
    x86::mode_changed(cpu);
  }
  // 64-bit mode at level 0 with 2 MiB identity pages for 1 GiB; tables at 0x10000. GDT as above, but code 8 and 0x33 are 64-bit.
  void start_long(u64 ip) {
    using namespace vmm::x86;
    start_protected(ip);
    put<u64>(0x1008, 0x00af'9b00'0000'ffff), put<u64>(0x1030, 0x00af'fb00'0000'ffff);
    put<u64>(0x10000, 0x11007), put<u64>(0x11000, 0x12007);
    for (u64 i = 0; i < 512; ++i) put<u64>(0x12000 + i * 8, (i << 21) | 0x87);
    state.cr3 = 0x10000, state.cr4 = cr4_pae | cr4_osfxsr, state.efer = efer_lme | efer_lma | efer_nxe | efer_sce;
    state.cr0 = cr0_pe | cr0_pg | cr0_et | cr0_ne | cr0_wp;
    state.segment[cs] = {.selector = 8, .attributes = 0xa09b, .limit = 0xffff'ffff, .base = 0};
    x86::mode_changed(cpu);
  }
  void interrupt_gate(unsigned vector, u16 selector, u64 offset, u8 attributes = 0x8e) {
    if (state.long_mode()) {
      put<u64>(0x1800 + vector * 16, (offset & 0xffff) | u64{selector} << 16 | u64{attributes} << 40 | (offset >> 16 & 0xffff) << 48);
      put<u64>(0x1808 + vector * 16, offset >> 32);
    } else {
      put<u64>(0x1800 + vector * 8, (offset & 0xffff) | u64{selector} << 16 | u64{attributes} << 40 | (offset >> 16 & 0xffff) << 48);
    }
  }
  // Until HLT or shutdown; false after too many blocks.
  bool run(u64 blocks = 100000) { return !loop->run_some(blocks); }

  vmm::x86::State state;
  x86::Cpu cpu{state};
  x86::System system{cpu};
  std::unique_ptr<VcpuLoop> loop;
  bool shut_down = false;
  std::string printed;  // bytes written to port 0x402
  std::map<u32, u32> out;
  u32 in = 0xff;

 private:
  u64 port_read(u64, unsigned) { return in; }
  void port_write(u64 port, unsigned, u64 value) {
    if (port == 0x402) printed += static_cast<char>(value);
    out[static_cast<u32>(port)] = static_cast<u32>(value);
  }
  memory::MemoryRegion root_, ports_root_, ram_region_, ports_;
  std::shared_ptr<memory::RamBlock> ram_;
  std::unique_ptr<memory::AddressSpace> memory_, port_space_;
  BlockStore store_{code_pages()};
  CodeWatch watch_{store_};
  std::unique_ptr<FirstTier> tier_;
  vmm::x86::CpuModel model_;
};

}  // namespace vmm::tcg
