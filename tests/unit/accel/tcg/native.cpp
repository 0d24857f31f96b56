#include "tests/unit/accel/tcg/native.h"

#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <mutex>

#include "accel/tcg/guest/x86/emitter.h"
#include "accel/tcg/guest/x86/emitters.h"
#include "accel/tcg/guest/x86/translate.h"
#include "accel/tcg/host/interp.h"
#include "src/base/bits.h"
#include "src/x86/disassemble.h"
#include "tests/unit/test.h"

namespace vmm::test {

namespace {

using namespace tcg::x86;
using tcg::GuestCpu;
namespace ir = tcg::ir;

// What the stub loads and stores, at a fixed place in the code mapping.
struct Area {
  u64 gpr[16];
  u64 flags;
  u64 host_rsp;
  u32 to_32[2], to_64[2];  // far pointers
  u64 stack_32[8];
  alignas(64) u8 fx[512];
  alignas(64) u8 ymm[16][32];
  alignas(64) u8 host_fx[512];
};
constexpr usize area_at = 8192, code_mapping = 16384;
u8* code_page;
Area* area;
sigjmp_buf escape;
volatile int fault_vector;
bool has_avx;

void on_signal(int signal, siginfo_t*, void* context) {
  const ucontext_t& u = *static_cast<ucontext_t*>(context);
  const auto& r = u.uc_mcontext.gregs;
  constexpr int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                             REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  for (int i = 0; i < 16; i++) area->gpr[i] = static_cast<u64>(r[order[i]]);
  area->flags = static_cast<u64>(r[REG_EFL]);
  fault_vector = r[REG_TRAPNO] >= 0 && r[REG_TRAPNO] < 32 ? static_cast<int>(r[REG_TRAPNO]) : signal;
  siglongjmp(escape, 1);
}

struct Assembler {
  u8* p;
  void absolute(const void* target) {
    const u32 v = static_cast<u32>(reinterpret_cast<u64>(target));
    memcpy(p, &v, 4), p += 4;
  }
  void byte(std::initializer_list<unsigned> bytes) {
    for (unsigned b : bytes) *p++ = static_cast<u8>(b);
  }
  void rip(const void* target, unsigned extra = 0) {  // a disp32 to target; `extra` bytes follow it
    const i64 d = static_cast<const u8*>(target) - (p + 4 + extra);
    const i32 v = static_cast<i32>(d);
    memcpy(p, &v, 4), p += 4;
  }
};

void setup() {
  static std::once_flag once;
  std::call_once(once, [] {
    // Low, so that 32-bit code reaches it.
    code_page = static_cast<u8*>(mmap(reinterpret_cast<void*>(0x31000000), code_mapping, PROT_READ | PROT_WRITE | PROT_EXEC,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
    area = reinterpret_cast<Area*>(code_page + area_at);
    has_avx = __builtin_cpu_supports("avx");
    stack_t alternate{.ss_sp = malloc(65536), .ss_flags = 0, .ss_size = 65536};
    sigaltstack(&alternate, nullptr);
  });
}

}  // namespace

u8* sandbox() {
  static u8* const memory = [] {
    // At 4 GiB-friendly and 32-bit-addressable places alike: low memory, so that 32-bit address sizes reach it.
    void* p = mmap(reinterpret_cast<void*>(0x30000000), sandbox_bytes + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
                   -1, 0);
    mprotect(p, sandbox_bytes, PROT_READ | PROT_WRITE);
    return static_cast<u8*>(p);
  }();
  return memory;
}

void prepare32(x86::State& s) {
  prepare(s);
  s.efer = 0, s.cr4 &= ~u64{cr4_pae};
  s.segment[cs] = {.selector = 0x23, .attributes = 0xc0fb, .limit = 0xffff'ffff, .base = 0};
}

void prepare(x86::State& s) {
  s = x86::State{};
  s.cr0 = cr0_pe | cr0_pg | cr0_ne | cr0_et | cr0_mp | cr0_wp;
  s.cr4 = cr4_pae | cr4_osfxsr | cr4_osxmmexcpt | cr4_osxsave;
  s.efer = efer_lme | efer_lma | efer_nxe | efer_sce;
  s.xcr0 = 7;
  s.segment[cs] = {.selector = 0x33, .attributes = 0xa0fb, .limit = 0xffff'ffff, .base = 0};
  for (unsigned i : {es, ss, ds, fs, gs}) s.segment[i] = {.selector = 0x2b, .attributes = 0xc0f3, .limit = 0xffff'ffff, .base = 0};
  s.rflags = 0x202;
  s.gpr[rsp] = reinterpret_cast<u64>(sandbox()) + 2048;
  s.x87 = {};
}

Outcome run_native(std::span<const u8> code, x86::State& s) {
  setup();
  const bool wide = s.code64();
  memcpy(area->gpr, s.gpr.data(), sizeof area->gpr);
  area->flags = s.rflags & (arithmetic_flags | flag_df);
  x86::X87Image image = s.x87;
  image.mxcsr = s.mxcsr;
  memcpy(area->fx, &image, 512);
  for (unsigned i = 0; i < 16; i++)
    memcpy(area->fx + 160 + i * 16, s.vector[i].lane.data(), 16), memcpy(area->ymm[i], s.vector[i].lane.data(), 32);
  Assembler a{code_page};
  a.byte({0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57});  // push rbx rbp r12–r15
  a.byte({0x48, 0x89, 0x25}), a.rip(&area->host_rsp);
  a.byte({0x48, 0x0f, 0xae, 0x05}), a.rip(area->host_fx);  // fxsave64
  a.byte({0x48, 0x0f, 0xae, 0x0d}), a.rip(area->fx);       // fxrstor64
  for (unsigned i = 0; has_avx && i < 16; i++) {
    a.byte({0xc5, i < 8 ? 0xfcu : 0x7cu, 0x10, 0x05u | (i & 7) << 3}), a.rip(area->ymm[i]);  // vmovups ymm, [rip]
  }
  if (!wide) a.byte({0xb8, 0x2b, 0, 0, 0, 0x8e, 0xd8, 0x8e, 0xc0});  // ds = es = user data
  a.byte({0xff, 0x35}), a.rip(&area->flags);                         // push flags
  a.byte({0x9d});
  if (wide) {
    for (unsigned i = 0; i < 16; i++) a.byte({0x48u | (i >= 8 ? 4u : 0u), 0x8b, 0x05u | (i & 7) << 3}), a.rip(&area->gpr[i]);
    memcpy(a.p, code.data(), code.size()), a.p += code.size();
    for (unsigned i = 0; i < 16; i++) a.byte({0x48u | (i >= 8 ? 4u : 0u), 0x89, 0x05u | (i & 7) << 3}), a.rip(&area->gpr[i]);
  } else {
    a.byte({0xff, 0x2d}), a.rip(area->to_32);  // jmp far
    area->to_32[0] = static_cast<u32>(reinterpret_cast<u64>(a.p)), area->to_32[1] = 0x23;
    for (unsigned i = 0; i < 8; i++) a.byte({0x8b, 0x05u | i << 3}), a.absolute(&area->gpr[i]);
    memcpy(a.p, code.data(), code.size()), a.p += code.size();
    for (unsigned i = 0; i < 8; i++) a.byte({0x89, 0x05u | i << 3}), a.absolute(&area->gpr[i]);
    a.byte({0x8d, 0x25}), a.absolute(&area->stack_32[7]);  // lea esp
    a.byte({0x9c, 0x8f, 0x05}), a.absolute(&area->flags);
    a.byte({0x2e, 0xff, 0x2d}), a.absolute(area->to_64);
    area->to_64[0] = static_cast<u32>(reinterpret_cast<u64>(a.p)), area->to_64[1] = 0x33;
  }
  a.byte({0x48, 0x8b, 0x25}), a.rip(&area->host_rsp);
  if (wide) a.byte({0x9c, 0x8f, 0x05}), a.rip(&area->flags);  // pushfq; pop
  a.byte({0xfc});
  for (unsigned i = 0; has_avx && i < 16; i++) a.byte({0xc5, i < 8 ? 0xfcu : 0x7cu, 0x11, 0x05u | (i & 7) << 3}), a.rip(area->ymm[i]);
  a.byte({0x48, 0x0f, 0xae, 0x05}), a.rip(area->fx);
  a.byte({0x48, 0x0f, 0xae, 0x0d}), a.rip(area->host_fx);
  if (has_avx) a.byte({0xc5, 0xf8, 0x77});
  a.byte({0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3});

  // Signal handlers only while it runs: a fault elsewhere is the test program's own.
  struct sigaction action = {}, before[5];
  action.sa_sigaction = on_signal, action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  constexpr int signals[5] = {SIGSEGV, SIGFPE, SIGILL, SIGBUS, SIGTRAP};
  for (int i = 0; i < 5; i++) sigaction(signals[i], &action, &before[i]);
  fault_vector = -1;
  if (sigsetjmp(escape, 1) == 0) {
    reinterpret_cast<void (*)()>(code_page)();
  } else {
    asm volatile("cld; fninit");
    asm volatile("fxrstor64 %0" ::"m"(area->host_fx));
  }
  for (int i = 0; i < 5; i++) sigaction(signals[i], &before[i], nullptr);

  memcpy(s.gpr.data(), area->gpr, wide ? 128 : 64);
  s.rflags = (s.rflags & ~u64{arithmetic_flags | flag_df}) | (area->flags & (arithmetic_flags | flag_df));
  if (fault_vector < 0) {
    memcpy(&image, area->fx, 512);
    s.mxcsr = image.mxcsr;
    image.mxcsr = s.x87.mxcsr, image.mxcsr_mask = s.x87.mxcsr_mask, image.rest = s.x87.rest;
    s.x87 = image;
    for (unsigned i = 0; i < 16; i++) {
      if (has_avx)
        memcpy(s.vector[i].lane.data(), area->ymm[i], 32);
      else
        memcpy(s.vector[i].lane.data(), area->fx + 160 + i * 16, 16);
    }
  }
  return {fault_vector};
}

namespace {

bool mapped(u64 at, unsigned size) {
  const u64 low = reinterpret_cast<u64>(sandbox());
  return at >= low && at + size <= low + sandbox_bytes && at + size >= at;
}
bool refuse(GuestCpu& g, u64 at, unsigned size, u16 access) {
  Cpu& cpu = cpu_of(g);
  if (sign_extend(at, 48) != at) return cpu.raise(access & ir::Access::stack ? vector_ss : vector_gp, 0), false;
  (void)size;
  cpu.raise_page_fault(at, 4);
  return false;
}
const tcg::MemoryOps flat_memory = {
    .read =
        [](GuestCpu& g, u64 at, unsigned size, u16 access, void* to) {
          if (!mapped(at, size)) return refuse(g, at, size, access);
          if ((access & ir::Access::aligned) && at % size) return cpu_of(g).raise(vector_gp, 0), false;
          return memcpy(to, reinterpret_cast<const void*>(at), size), true;
        },
    .write =
        [](GuestCpu& g, u64 at, unsigned size, u16 access, const void* from) {
          if (!mapped(at, size)) return refuse(g, at, size, access);
          if ((access & ir::Access::aligned) && at % size) return cpu_of(g).raise(vector_gp, 0), false;
          return memcpy(reinterpret_cast<void*>(at), from, size), true;
        },
    .rmw =
        [](GuestCpu& g, u64 at, unsigned size, u16 access, ir::RmwKind kind, u64 operand, u64 expected, u64& old) {
          if (!mapped(at, size)) return refuse(g, at, size, access);
          old = 0;
          memcpy(&old, reinterpret_cast<const void*>(at), size);
          u64 now = old;
          switch (kind) {
            case ir::RmwKind::add: now = old + operand; break;
            case ir::RmwKind::and_: now = old & operand; break;
            case ir::RmwKind::or_: now = old | operand; break;
            case ir::RmwKind::xor_: now = old ^ operand; break;
            case ir::RmwKind::xchg: now = operand; break;
            case ir::RmwKind::cas: now = old == expected ? operand : old; break;
            case ir::RmwKind::neg: now = 0 - old; break;
          }
          return memcpy(reinterpret_cast<void*>(at), &now, size), true;
        },
};

}  // namespace

Outcome run_interpreter(std::span<const u8> code, x86::State& s, unsigned block_limit) {
  static auto cpu_storage = std::make_unique<x86::State>();
  static Cpu* const cpu = [] {
    auto* c = new Cpu(*cpu_storage);
    for (unsigned f = 1; f < static_cast<unsigned>(Feature::count); f++) c->features.add(static_cast<Feature>(f));
    c->memory = &flat_memory;
    return c;
  }();
  *cpu_storage = s;
  cpu->fault = false;
  cpu->key = key_of(*cpu);
  // Half of the runs take the line of the small TLB, half the slow way.
  cpu->tlb->flush();
  static unsigned turn = 0;
  if (turn++ & 1) {
    for (u64 at = reinterpret_cast<u64>(sandbox()); mapped(at, 1); at += 4096)
      cpu->tlb->line[tcg::SoftTlb::index(at)] = {.read = at, .write = at, .addend = 0};
  }
  std::vector<u8> bytes(code.begin(), code.end());
  bytes.resize(bytes.size() + 16, 0x90);
  ir::Block block;
  u64& rip = cpu_storage->rip;
  rip = 0x1000;
  const u64 end = 0x1000 + code.size();
  for (unsigned steps = 0; rip < end && rip >= 0x1000 && !cpu->fault && steps < 100000; steps++) {
    const u16 offset = static_cast<u16>(rip & 0xfff);
    // Not past the end: count the instructions that are left.
    unsigned limit = 0;
    for (usize at = offset; at < code.size() && limit < block_limit; limit++) {
      Insn insn;
      if (decode(std::span<const u8>(bytes).subspan(at), cpu->key, cpu->features, insn) != Decoded::ok) {
        limit++;
        break;
      }
      at += insn.length;
    }
    const auto window = std::span<const u8>(bytes).subspan(offset);
    if (tcg::x86::translate(*cpu, cpu->key.raw, window, offset, tcg::Form::portable, limit, block) != tcg::Translated::ok) break;
    tcg::interpret(*cpu, block);
  }
  s = *cpu_storage;
  return {cpu->fault ? cpu->pending.vector : -1};
}

std::string hex(std::span<const u8> code, bool wide) {
  std::string out;
  for (u8 b : code) out += fmt::format("{:02x} ", b);
  x86::load_disassembler();
  return out + tcg::x86::print_insns(wide ? ModeKey::code64 : ModeKey::code32, code, 0x1000);
}

std::string compare(std::span<const u8> code, x86::State& state, bool skip_undefined, u64 flags_compared, unsigned block_limit) {
  static u8 start[sandbox_bytes], native_memory[sandbox_bytes];
  memcpy(start, sandbox(), sandbox_bytes);
  const x86::State in = state;
  x86::State native = in, ours = in;
  const Outcome n = run_native(code, native);
  memcpy(native_memory, sandbox(), sandbox_bytes);
  memcpy(sandbox(), start, sandbox_bytes);
  state = native;
  if (n.fault == vector_ud && skip_undefined) return {};
  const Outcome o = run_interpreter(code, ours, block_limit);
  std::string out;
  auto differ = [&](std::string_view what, u64 want, u64 got) {
    fmt::format_to(std::back_inserter(out), "  {}: host {:#x}, ours {:#x}\n", what, want, got);
  };
  if (n.fault != o.fault) differ("fault", static_cast<u64>(n.fault), static_cast<u64>(o.fault));
  constexpr const char* names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                     "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
  for (unsigned i = 0; i < 16; i++)
    if (native.gpr[i] != ours.gpr[i]) differ(names[i], native.gpr[i], ours.gpr[i]);
  const u64 flags = flags_compared | flag_df;
  if ((native.rflags ^ ours.rflags) & flags) differ("flags", native.rflags & flags, ours.rflags & flags);
  if (n.fault < 0) {
    for (unsigned i = 0; i < 16; i++)
      for (unsigned k = 0; k < (has_avx ? 4 : 2); k++)
        if (native.vector[i].lane[k] != ours.vector[i].lane[k])
          differ(fmt::format("ymm{}[{}]", i, k), native.vector[i].lane[k], ours.vector[i].lane[k]);
    if (native.mxcsr != ours.mxcsr) differ("mxcsr", native.mxcsr, ours.mxcsr);
    if (native.x87.fcw != ours.x87.fcw) differ("fcw", native.x87.fcw, ours.x87.fcw);
    if (native.x87.fsw != ours.x87.fsw) differ("fsw", native.x87.fsw, ours.x87.fsw);
    if (native.x87.ftw != ours.x87.ftw) differ("ftw", native.x87.ftw, ours.x87.ftw);
    for (unsigned i = 0; i < 8; i++) {
      if (memcmp(native.x87.st[i].data(), ours.x87.st[i].data(), 10) != 0)
        differ(fmt::format("st{}", i), load_le<u64>(native.x87.st[i].data()), load_le<u64>(ours.x87.st[i].data()));
    }
  }
  for (usize i = 0; i < sandbox_bytes; i++) {
    if (native_memory[i] == sandbox()[i]) continue;
    differ(fmt::format("memory +{:#x}", i), native_memory[i], sandbox()[i]);
    break;
  }
  if (!out.empty()) {
    std::string from = fmt::format("{}  from flags {:#x}\n", hex(code, in.code64()), in.rflags);
    for (unsigned i = 0; i < 16; i++) fmt::format_to(std::back_inserter(from), "  {} {:#x}{}", names[i], in.gpr[i], i % 4 == 3 ? "\n" : "");
    out = from + out;
  }
  memcpy(sandbox(), start, sandbox_bytes);
  return out;
}

u64 Random::edge() {
  static constexpr u64 edges[] = {0,
                                  1,
                                  2,
                                  0x7f,
                                  0x80,
                                  0xff,
                                  0x100,
                                  0x7fff,
                                  0x8000,
                                  0xffff,
                                  0x10000,
                                  0x7fffffff,
                                  0x80000000,
                                  0xffffffff,
                                  0x100000000,
                                  0x7fffffffffffffff,
                                  0x8000000000000000,
                                  0xffffffffffffffff,
                                  0xfffffffffffffffe,
                                  0xffffffff80000000,
                                  0xaaaaaaaaaaaaaaaa,
                                  0x5555555555555555,
                                  0x0f,
                                  0x9a,
                                  31,
                                  32,
                                  63,
                                  64};
  const unsigned pick = below(48);
  if (pick < std::size(edges)) return edges[pick];
  return pick & 1 ? next() : next() >> below(64);
}

static bool name_of_stack(const Row& row) { return std::string_view(row.name) == "enter" || std::string_view(row.name) == "pushf"; }

bool encode_random(const Row& row, Map map, Random& random, std::vector<u8>& code, x86::State& s, bool wide) {
  const Traits& t = row.t;
  if (t.mode == (wide ? Mode::no64 : Mode::only64) || t.undefined || (!wide && t.w == 1)) return false;
  using K = ir::NativeKind;
  if (t.kind == K::call || t.kind == K::call_indirect || t.kind == K::ret || t.kind == K::jump || t.kind == K::jump_indirect ||
      t.kind == K::branch || t.kind == K::loop_)
    return false;
  wide ? prepare(s) : prepare32(s);
  const unsigned regs = wide ? 16 : 8;
  u8* const box = sandbox();
  for (usize i = 0; i < sandbox_bytes; i += 8) {
    const u64 v = random.edge();
    memcpy(box + i, &v, 8);
  }
  for (unsigned i = 0; i < regs; i++) s.gpr[i] = wide ? random.edge() : static_cast<u32>(random.edge());
  s.gpr[rsp] = reinterpret_cast<u64>(box) + 2048 + random.below(64) * 8;
  s.rflags = 0x202 | (random.next() & arithmetic_flags);
  for (x86::VectorRegister& v : s.vector)
    for (u64& lane : v.lane) lane = random.edge();

  Insn insn;  // as far as width_of looks
  insn.code64 = wide;
  bool has_modrm = t.modrm || t.reg >= 0 || t.rm >= 0 || t.mod != Mod::any, mem = false, by_reg = false, mem_only = t.mod == Mod::memory,
       reg_only = t.mod == Mod::reg, is_vector = false;
  unsigned imm = 0;
  for (const Operand& o : row.operands) {
    if (o.role == Role::modrm_rm || o.role == Role::modrm_reg) has_modrm = true;
    if (o.role == Role::modrm_rm && o.form == Operand::mem_only) mem_only = true;
    if (o.role == Role::modrm_rm && o.form == Operand::reg_only) reg_only = true;
    if (o.role == Role::modrm_reg && o.file == File::gpr) by_reg = true;
    if (o.role == Role::moffs || o.role == Role::far_ptr || o.role == Role::rel) return false;
    if (o.file == File::vector) is_vector = true;
  }
  (void)is_vector;
  // any: 66, 48 or nothing; no_rep, f3, f2: likewise
  unsigned size = random.below(4);  // 0 word, 1 and 2 double, 3 quad
  const bool free66 =
      !t.vex &&
      (t.prefix == Prefix::any || t.prefix == Prefix::no_rep ||
       ((t.prefix == Prefix::f3 || t.prefix == Prefix::f2) && row.operands[0].file == File::gpr && row.operands[0].size == Size::v));
  const bool p66 = t.prefix == Prefix::p66 || (free66 && size == 0);
  const bool w = t.w >= 0 ? t.w : wide && size == 3;
  insn.w = w, insn.p66 = p66, insn.vex = t.vex;
  insn.vex_l = t.vex ? (t.l >= 0 ? static_cast<u8>(t.l) : static_cast<u8>(random.below(2))) : 0;
  insn.opsize = !wide ? (p66 ? 2 : 4) : w || t.f64 ? 8 : p66 ? 2 : t.d64 ? 8 : 4;
  unsigned reg = t.reg >= 0 ? static_cast<unsigned>(t.reg) : random.below(regs),
           rm = t.rm >= 0 ? static_cast<unsigned>(t.rm) : random.below(regs), vvvv = 0;
  unsigned index = 16, scale = 0;
  bool rex_wanted = wide && random.below(2), zreg = false;
  unsigned opcode_reg = 0;
  unsigned width = 8;
  for (const Operand& o : row.operands) {
    if (o.role == Role::vvvv) vvvv = random.below(regs);
    if (o.role == Role::modrm_rm && width_of(insn, o)) width = width_of(insn, o);
    if (o.role == Role::opcode_reg) zreg = true, opcode_reg = (wide ? random.below(2) * 8 : 0) + (row.opcode & 7);
    if (o.file == File::mmx && o.role == Role::modrm_reg) reg &= 7;
  }
  if (has_modrm) mem = mem_only || (!reg_only && random.below(2));
  if (random.registers_only && mem_only) return false;
  if (random.registers_only) mem = false;
  const u64 far = 256 + random.below(3000);
  i32 disp = 0;
  unsigned base = rm;
  if (mem) {
    if (base == 4) base = 3;
    u64 at = reinterpret_cast<u64>(box) + far;
    if (t.aligned || width == 16 || random.below(4)) at &= ~u64{31};
    // Faults: past the end, across it, non-canonical.
    switch (random.below(24)) {
      case 0: at = reinterpret_cast<u64>(box) + sandbox_bytes + 64; break;
      case 1: at = reinterpret_cast<u64>(box) + sandbox_bytes - 1 - random.below(width); break;
      case 2: at = 0x8000'0000'0000'0000 | random.below(100000) * 8; break;
      default: break;
    }
    if (t.kind == K::load_address) at = random.edge();
    if (random.below(3) == 0) {
      index = random.below(regs);
      if (index == 4 || index == base) index = 16;
    }
    disp = random.below(2) ? 0 : static_cast<i32>(random.below(200)) - 100;
    if (random.below(6) == 0) disp = static_cast<i32>(random.next());
    if (index < 16) scale = random.below(4), s.gpr[index] = random.below(2) ? random.below(100) : random.next() >> 20;
    if (index == rsp || base == rsp) index = 16;
    s.gpr[base] = at - static_cast<u64>(i64{disp}) - (index < 16 ? s.gpr[index] << scale : 0);
    if (!wide)
      for (u64& r : s.gpr) r = static_cast<u32>(r);
    const std::string_view name = row.name;
    if (name.starts_with("bt") && by_reg && reg != base && reg != index)
      s.gpr[reg] = static_cast<u64>(static_cast<i64>(random.below(2000)) - 1000) | (insn.opsize == 8 ? 0 : random.next() << 32);
    else if (name.starts_with("bt") && by_reg)
      return encode_random(row, map, random, code, s, wide);
  }
  if (t.kind == K::string) {
    s.gpr[rsi] = reinterpret_cast<u64>(box) + 1024 + random.below(2500),
    s.gpr[rdi] = reinterpret_cast<u64>(box) + 1024 + random.below(2500);
    s.gpr[rcx] = random.below(70);
    if (random.below(16) == 0) s.gpr[rsi] = reinterpret_cast<u64>(box) + sandbox_bytes - random.below(100);
    if (random.below(16) == 0) s.gpr[rdi] = reinterpret_cast<u64>(box) + sandbox_bytes - random.below(100);
    if (random.below(2)) s.rflags |= flag_df;
  }
  if (random.below(20) == 0 && (t.kind == K::push || t.kind == K::pop || name_of_stack(row))) {
    s.gpr[rsp] = reinterpret_cast<u64>(box) + (random.below(2) ? sandbox_bytes - random.below(9) : random.below(9));
  }
  if (t.kind == K::leave || std::string_view(row.name) == "enter") s.gpr[rbp] = reinterpret_cast<u64>(box) + 1024;
  const std::string_view name = row.name;
  if (name == "xlat") s.gpr[rbx] = reinterpret_cast<u64>(box) + 1024;
  if (random.below(2) && (name == "cmpxchg")) memcpy(&s.gpr[rax], box + (far & 0xff8), 8);

  if (!wide) {
    for (u64& r : s.gpr) r = static_cast<u32>(r);
  }
  // assemble
  code.clear();
  const bool can_lock = t.lock && mem && t.kind != K::exchange;
  if (can_lock && random.below(3) == 0) code.push_back(0xf0);
  const unsigned r = reg >> 3 & 1, x = index < 16 ? index >> 3 & 1 : 0, b = zreg ? opcode_reg >> 3 : mem ? base >> 3 & 1 : rm >> 3 & 1;
  if (!t.vex) {
    if (t.rep && random.below(3)) code.push_back(random.below(2) ? 0xf3 : 0xf2);
    if (p66) code.push_back(0x66);
    if (t.prefix == Prefix::f3) code.push_back(0xf3);
    if (t.prefix == Prefix::f2) code.push_back(0xf2);
    const unsigned rex = 0x40 | (w ? 8u : 0) | (t.reg >= 0 ? 0 : r << 2) | x << 1 | b;
    if (rex != 0x40 || rex_wanted) code.push_back(static_cast<u8>(rex));
    if (map != Map::one) code.push_back(0x0f);
    if (map == Map::m38) code.push_back(0x38);
    if (map == Map::m3a) code.push_back(0x3a);
  } else {
    const unsigned pp = t.prefix == Prefix::p66 ? 1 : t.prefix == Prefix::f3 ? 2 : t.prefix == Prefix::f2 ? 3 : 0;
    code.push_back(0xc4);
    code.push_back(static_cast<u8>((t.reg >= 0 ? 0x80 : (r ^ 1) << 7) | (x ^ 1) << 6 | (b ^ 1) << 5 | static_cast<unsigned>(map)));
    code.push_back(static_cast<u8>((w ? 0x80u : 0) | ((~vvvv & 15) << 3) | static_cast<unsigned>(insn.vex_l) << 2 | pp));
  }
  code.push_back(row.opcode);
  if (has_modrm) {
    if (!mem) {
      code.push_back(static_cast<u8>(0xc0 | (reg & 7) << 3 | (rm & 7)));
    } else {
      const bool sib = index < 16 || (base & 7) == 4;
      code.push_back(static_cast<u8>(0x80 | (reg & 7) << 3 | (sib ? 4u : base & 7)));
      if (sib) code.push_back(static_cast<u8>(scale << 6 | ((index < 16 ? index : 4) & 7) << 3 | (base & 7)));
      for (int i = 0; i < 4; i++) code.push_back(static_cast<u8>(disp >> (8 * i)));
    }
  }
  for (const Operand& o : row.operands) {
    if (o.role == Role::is4) code.push_back(static_cast<u8>(random.next()));
    if (o.role != Role::imm && o.role != Role::imm_sx) continue;
    u64 v = random.edge();
    if (name == "enter") v &= imm ? 7 : 0x1ff;
    for (unsigned i = 0; i < width_of(insn, o); i++) code.push_back(static_cast<u8>(v >> (8 * i)));
    imm++;
  }
  return true;
}

// The decimal adjustments' undefined flags differ from CPU to CPU, and no 64-bit host can be asked.
static u64 compared_flags(const Row& row) {
  const std::string_view name = row.name;
  if (name == "aaa" || name == "aas") return flag_cf | flag_af;
  if (name == "aam" || name == "aad") return flag_sf | flag_zf | flag_pf;
  if (name == "daa" || name == "das") return arithmetic_flags & ~u64{flag_of};
  return arithmetic_flags;
}

std::string check_row(const Row& row, Map map, unsigned count, u64 seed, bool wide) {
  Random random{seed * 0x9e3779b97f4a7c15ull + 1};
  std::vector<u8> code;
  x86::State state;
  for (unsigned i = 0; i < count; i++) {
    if (!encode_random(row, map, random, code, state, wide)) return {};
    std::string text = compare(code, state, true, compared_flags(row));
    if (!text.empty()) return fmt::format("{} ({:02x}): {}", row.name, row.opcode, text);
  }
  return {};
}

}  // namespace vmm::test
