// What the system side of an x86 vCPU needs besides its registers: memory, devices, CPUID; and the functions by which the parts of
// the system side (walk, memory, segment, events, transfer, helpers) know each other. All on the vCPU's thread unless noted.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "accel/tcg/guest/x86/cpu.h"
#include "accel/tcg/mem/pages.h"
#include "src/memory/memory.h"
#include "src/vm/vcpu.h"
#include "src/x86/model.h"

namespace vmm::tcg::x86 {

using vmm::x86::CpuFeature;
using vmm::x86::CpuModel;

// Who asks for an address. `implicit`: a supervisor access whatever the current level, on which EFLAGS.AC has no say.
enum class Privilege : u8 { user, supervisor, implicit };
enum class Rights : u8 { read, write, fetch };

struct Translation {
  u64 physical = 0;  // of the byte asked for, A20 applied
  u64 page_bytes = 4096;
  bool write_ready = false;  // a write through this translation needs no further walk: allowed, and D is set
  bool global = false;
  u8 key = 0;  // protection key of a user page; 0 otherwise
};

struct System {
  explicit System(Cpu& c) : cpu(c) {}
  Cpu& cpu;
  // Surroundings; memory and ports are never null once the vCPU runs.
  memory::AddressSpace* memory = nullptr;
  memory::AddressSpace* smm_memory = nullptr;
  memory::AddressSpace* ports = nullptr;
  vm::LocalInterrupts* interrupts = nullptr;
  vm::CoprocessorError* coprocessor = nullptr;  // null: x87 errors are #MF whatever CR0.NE says
  const CpuModel* model = nullptr;
  vmm::x86::Topology topology;
  u32 apic_id = 0;
  bool bootstrap = true;
  u64 (*guest_clock)(void* self) = nullptr;  // guest nanoseconds, running with the machine
  void* clock_self = nullptr;
  void (*triple_fault)(void* self) = nullptr;
  void* machine_self = nullptr;
  // Around everything that may wait for a lock or a device: others may then work on this vCPU (style.md, "Parked").
  void (*park)(void* self, bool in) = nullptr;
  void* park_self = nullptr;
  // Around what no other vCPU may see half of; null: there is no other.
  void (*exclusive)(void* park_self, bool in) = nullptr;
  CodePages* code_pages = nullptr;  // which pages hold translated code; null: nothing is translated
  unsigned index = 0;               // of this vCPU: its bit in CodePage::writers

  // Requests by other threads (vm::Request bits); poll is stored 0 after a bit is set.
  std::atomic<u32> requests{0};
  std::atomic<u8>* sipi_vector = nullptr;

  // Physical pages lately used, by address; valid for one generation of one address space.
  struct Physical {
    u64 tag = ~u64{0};
    memory::PageInfo info;
  };
  static constexpr unsigned physical_lines = 512;
  Physical physical[physical_lines];
  memory::AddressSpace* space = nullptr;  // the one that `physical` is of
  u64 generation = 0;

  // Linear pages lately fetched from.
  struct Fetched {
    u64 tag = ~u64{0};  // linear page | user
    u64 physical = 0;
    memory::PageInfo info;
  };
  static constexpr unsigned fetched_lines = 128;
  Fetched fetched[fetched_lines];
  u8 fetch_buffer[64];  // bytes of code that does not lie in RAM

  // Which lines of each soft TLB were filled since the last flush; past the end: all are looked at.
  struct FillLog {
    static constexpr unsigned size = 256;
    unsigned count = 0;
    u16 line[size];
    // By a hash of the host page: the one line that may store to such pages, plus 1; `many`; 0: none.
    static constexpr u16 many = 0xffff;
    std::array<u16, 1024> stores{};
    u16& storing(u64 host) { return stores[host / memory::page_bytes % 1024]; }
    void note_store(u64 host, unsigned index) {
      u16& s = storing(host);
      s = s == 0 || s == index + 1 ? static_cast<u16>(index + 1) : many;
    }
  };
  FillLog fills[3];
  // Large pages that soft lines came from, since a flush: invlpg drops all lines of such a page.
  struct Large {
    u64 base = 0, bytes = 0;
  };
  Large large[16];
  unsigned large_count = 0;  // 17: too many to tell

  // Debug registers, decoded at each write of DR7 and DR0–3.
  bool data_breakpoints = false, code_breakpoints = false, port_breakpoints = false;
  u64 debug_hits = 0;  // DR6 bits of data and port breakpoints that the running instruction met
  // SYSCALL and SYSRET: TF is looked at when they are done, so that a masked TF traps not in the kernel, and a returned one at once.
  enum class StepTrap : u8 { by_old_flags, no, yes } step_trap = StepTrap::by_old_flags;
  // A debugger outside the machine. Null: it has set no points.
  const vm::Debug* debug = nullptr;
  enum class Step : u8 { none, plain, alone } step = Step::none;  // one instruction, then stop; alone: no interrupt is taken before it
  vm::DebugStop debug_stop;                                       // the vCPU must stop for this
  bool trap_after = false;                                        // the running instruction loaded TF's trap by task switch (DR6.BT)
  // MONITOR: the physical page and address armed; 0: none.
  u64 monitor_address = 0;
  bool monitor_armed = false;

  u64 physical_mask = 0;  // reserved bits of page-table entries above the physical width
  u64 interrupts_taken = 0, exceptions_taken = 0;
  // A vCPU with another engine for programs: after so many interrupts an IRET to level 3 leaves the loop, and says so.
  u64 program_at = ~u64{0};
  bool at_program = false;
  int halt_count = 0;
};
// The state is complete and the vCPU runs no guest code while this lives.
class ParkedScope {
 public:
  explicit ParkedScope(const System& system) : system_(system) {
    if (system_.park) system_.park(system_.park_self, true);
  }
  ~ParkedScope() {
    if (system_.park) system_.park(system_.park_self, false);
  }
  ParkedScope(const ParkedScope&) = delete;

 private:
  const System& system_;
};
// No other vCPU runs guest code while this lives. On the way in the vCPU is parked: what was translated before may be stale.
class ExclusiveScope {
 public:
  explicit ExclusiveScope(const Cpu& cpu) : system_(static_cast<const System*>(cpu.owner)) { change(true); }
  ~ExclusiveScope() { change(false); }
  ExclusiveScope(const ExclusiveScope&) = delete;

 private:
  void change(bool in) const {
    if (system_ && system_->exclusive) system_->exclusive(system_->park_self, in);
  }
  const System* system_;  // null: a CPU without surroundings, as tests of single instructions have
};
inline System& system_of(Cpu& cpu) { return *static_cast<System*>(cpu.owner); }
inline System& system_of(GuestCpu& g) { return system_of(cpu_of(g)); }
inline u64 linear_ip(const Cpu& cpu) {
  const State& s = cpu.state;
  return s.code64() ? s.rip : (s.segment[cs].base + s.rip) & 0xffff'ffff;
}
// What breakpoints on the page of an address add to the mode key of code there.
inline u64 debug_key(Cpu& cpu, u64 linear) {
  const vm::Debug* const debug = system_of(cpu).debug;
  return debug ? u64{debug->cuts_of(linear)} << ModeKey::cuts_shift & ModeKey::cuts_mask : 0;
}

// --- walk.cpp
// False: a fault is pending (unless `quiet`, then only false). Sets A and D bits unless quiet.
bool translate(Cpu& cpu, u64 linear, Rights want, Privilege who, Translation& out, bool quiet = false);
bool canonical(const Cpu& cpu, u64 linear);
inline Privilege privilege_of(const Cpu& cpu) { return cpu.state.cpl() == 3 ? Privilege::user : Privilege::supervisor; }
// Loads PAE's four entries from CR3; false: a reserved bit (#GP by the caller).
bool load_pdptes(Cpu& cpu, u64 cr3, std::array<u64, 4>& out);

// --- memory.cpp
extern const MemoryOps memory_ops;
memory::AddressSpace& space_of(Cpu& cpu);
const memory::PageInfo& physical_page(Cpu& cpu, u64 physical);
bool is_apic_page(Cpu& cpu, u64 physical);
// Physical memory, devices included; within a page.
void read_physical(Cpu& cpu, u64 physical, void* to, unsigned size);
void write_physical(Cpu& cpu, u64 physical, const void* from, unsigned size);
// RAM was written by host pointer: dirty bits and translated code.
void ram_modified(Cpu& cpu, const memory::PageInfo& page, u64 offset_in_page, unsigned length);
// Picks the soft TLB for CPL, AC, CR0, CR4; tells the engine. After any change of those.
void mode_changed(Cpu& cpu);
void flush_tlb(Cpu& cpu, bool keep_global);
void enter_space(Cpu& cpu, u32 pcid, bool keep);  // CR3 was written while CR4.PCIDE is set
void flush_page(Cpu& cpu, u64 linear);
void flush_writes(Cpu& cpu);
void drop_writes_of(Cpu& cpu, memory::PageNumber page);  // code appears there
void flush_everything(Cpu& cpu);
// After a device was touched: the memory map may be another.
void check_generation(Cpu& cpu);
bool fetch(GuestCpu& g, bool next, Code& code);
bool debug_walk(GuestCpu& g, u64 address, u16 access, u64& physical);
// Linear read and write with explicit rights.
bool read_linear(Cpu& cpu, u64 linear, void* to, unsigned size, Privilege who, u16 access = 0);
bool write_linear(Cpu& cpu, u64 linear, const void* from, unsigned size, Privilege who, u16 access = 0);

// --- segment.cpp
struct Descriptor {
  u64 raw = 0, upper = 0;  // upper: second half of 16-byte system descriptors
  u64 address = 0;         // linear, of the descriptor
  u16 attributes() const { return static_cast<u16>(raw >> 40 & 0xf0ff); }
  u64 base() const { return (raw >> 16 & 0xff'ffff) | (raw >> 56 & 0xff) << 24 | upper << 32; }
  u32 limit() const {
    const u32 limit = static_cast<u32>((raw & 0xffff) | (raw >> 32 & 0xf'0000));
    return raw >> 55 & 1 ? limit << 12 | 0xfff : limit;
  }
  unsigned type() const { return raw >> 40 & 15; }
  bool code_or_data() const { return raw >> 44 & 1; }
  unsigned dpl() const { return raw >> 45 & 3; }
  bool present() const { return raw >> 47 & 1; }
  bool is_long() const { return raw >> 53 & 1; }
  bool big() const { return raw >> 54 & 1; }
  bool code() const { return (raw >> 43 & 3) == 3; }
  bool conforming() const { return code() && (type() & 4); }
  bool readable() const { return !code() || (type() & 2); }
  bool writable() const { return code_or_data() && !code() && (type() & 2); }
  // Gates
  u16 gate_selector() const { return static_cast<u16>(raw >> 16); }
  u64 gate_offset() const { return (raw & 0xffff) | (raw >> 32 & 0xffff'0000); }
  Segment segment(u16 selector) const { return {.selector = selector, .attributes = attributes(), .limit = limit(), .base = base()}; }
};
enum SystemType : u8 {
  type_tss16 = 1,
  type_ldt = 2,
  type_tss16_busy = 3,
  type_call16 = 4,
  type_task_gate = 5,
  type_interrupt16 = 6,
  type_trap16 = 7,
  type_tss32 = 9,
  type_tss32_busy = 11,
  type_call32 = 12,
  type_interrupt32 = 14,
  type_trap32 = 15
};
// Reads a descriptor; outside the table: raises `vector` with the selector as error code (plus `ext`).
bool read_descriptor(Cpu& cpu, u16 selector, u8 vector, Descriptor& out, u32 ext = 0);
bool read_descriptor_upper(Cpu& cpu, u16 selector, u8 vector, Descriptor& out, u32 ext = 0);  // 16-byte system descriptors
bool mark_accessed(Cpu& cpu, Descriptor& d);
// Checks for SS, and for DS ES FS GS; false: fault pending. `cpl`: the level that the stack is loaded for.
bool check_stack_segment(Cpu& cpu, u16 selector, unsigned cpl, u8 vector, Segment& out, u32 ext = 0);
bool check_data_segment(Cpu& cpu, u16 selector, Segment& out, u8 vector = 13);
// MOV/POP/LxS to a segment register, all modes.
bool load_segment(Cpu& cpu, unsigned segment, u16 selector);
void set_real_segment(Cpu& cpu, unsigned segment, u16 selector);
bool load_ldt(Cpu& cpu, u16 selector, u8 vector = 13);
// Nulls data segments that the level `cpl` may not see (return to an outer level).
void drop_inner_segments(Cpu& cpu, unsigned cpl);

// A stack being written or read while nothing is committed: SS, SP and level may be those to come.
struct Stack {
  Cpu* owner;
  Segment segment;
  u64 sp;
  unsigned cpl;
  bool wide;  // 64-bit: no base, no limit
  u32 ext = 0;
  Stack(Cpu& c, const Segment& s, u64 pointer, unsigned level, bool sixty_four)
      : owner(&c), segment(s), sp(pointer), cpl(level), wide(sixty_four) {}
  static Stack current(Cpu& cpu);
  u64 mask() const { return wide ? ~u64{0} : segment.big() ? 0xffff'ffff : 0xffff; }
  bool push(u64 value, unsigned size);
  bool pop(u64& value, unsigned size);
  bool peek(u64 offset, u64& value, unsigned size);
  bool room(unsigned bytes);  // for that many bytes of pushes; #SS if not
  void commit_sp(State& s) const { s.gpr[rsp] = (s.gpr[rsp] & ~mask()) | (sp & mask()); }
  bool linear(u64 offset, unsigned size, bool write, u64& out);
};

// --- events.cpp
void deliver(GuestCpu& g);
bool leave(GuestCpu& g);
enum class EventKind : u8 { external, nmi, exception, software, software_real_only };
struct Event {
  u8 vector = 0;
  EventKind kind = EventKind::exception;
  bool has_code = false;
  u32 code = 0;
  u64 return_ip = 0;
  bool external() const { return kind != EventKind::software && kind != EventKind::software_real_only; }
};
bool inject(Cpu& cpu, const Event& event);  // false: a fault is pending
void deliver_external(Cpu& cpu, u8 vector, EventKind kind);
void update_breakpoints(Cpu& cpu);
void take_init(Cpu& cpu);
void take_sipi(Cpu& cpu, u8 vector);
// After an instruction: TF, data breakpoints. `tf`: TF was set before it. Raises #DB.
void after_instruction(Cpu& cpu, bool tf);
bool code_breakpoint(Cpu& cpu);  // an instruction breakpoint stands at the instruction pointer: #DB is pending
void set_cs(Cpu& cpu, const Segment& cs, unsigned cpl);

// --- task.cpp
enum class SwitchBy : u8 { jump, call, iret, gate };
bool switch_task(Cpu& cpu, u16 selector, const Descriptor& tss, SwitchBy by, u64 next_ip, bool has_code = false, u32 code = 0);
bool inner_stack(Cpu& cpu, unsigned level, u16& selector, u64& sp);  // from the TSS; #TS if it lies outside

// --- smm.cpp
void enter_smm(Cpu& cpu);

// --- msr and control registers
bool write_cr(Cpu& cpu, unsigned number, u64 value);
u64 read_tsc(Cpu& cpu);
bool set_efer(Cpu& cpu, u64 value);
FeatureSet decode_features(const CpuModel& model);
void prepare(System& system);  // after model, memory… are set

}  // namespace vmm::tcg::x86
