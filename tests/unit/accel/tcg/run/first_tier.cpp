// E1 against the host CPU itself: the same bytes, registers, flags and memory, run natively and translated.
#include "accel/tcg/run/first_tier.h"

#include <sys/mman.h>

#include <cstring>
#include <random>

#include "accel/tcg/guest/x86/cpu.h"
#include "accel/tcg/guest/x86/insn.h"
#include "accel/tcg/guest/x86/translate.h"
#include "accel/tcg/run/fault.h"
#include "tests/unit/accel/tcg/native.h"
#include "tests/unit/test.h"

namespace vmm::tcg {
namespace {

namespace x = vmm::x86;
using x86::ModeKey;

// Guest addresses are real addresses of this process for the native run; E1 sees a copy of the same bytes elsewhere.
constexpr u64 code_at = 0x5000'0000, data_at = 0x5100'0000, data_bytes = 0x4000;

struct Flat final : FirstTierGuest {
  x::State state;
  x86::Cpu cpu{state};
  CodePages pages;
  BlockStore store{pages};
  std::unique_ptr<FirstTier> tier;
  std::unique_ptr<FirstTierCpu> engine;
  u8 *code = nullptr, *data = nullptr;  // the guest's bytes as E1 sees them
  bool sandbox = false;                 // the sandbox of native.h is there too, its bytes in `shadow`
  u8* shadow = nullptr;
  bool scattered = false;  // neighbours among the data pages are no neighbours in the host
  u8* data_page(u64 n) const { return data + 4096 * (scattered ? n ^ n >> 1 ^ 1 : n); }
  unsigned steps = 0;
  ModeKey key{ModeKey::code64 | ModeKey::flat | ModeKey::fs_plain | ModeKey::gs_plain | ModeKey::sse_ok | ModeKey::avx_ok |
              ModeKey::x87_ok | ModeKey::protected_ | ModeKey::cpl0};
  static inline Flat* self = nullptr;

  static bool fetch(GuestCpu& g, bool next, Code& c) {
    const u64 ip = (*g.ip + (next ? 4096 : 0)) & ~(next ? u64{4095} : 0);
    if (ip < code_at || ip >= code_at + 0x4000) return g.fault = true, false;
    c.bytes = {self->code + (ip - code_at), 4096 - (ip & 4095)};
    c.page = 100 + ((ip - code_at) >> 12);
    c.offset = ip & 4095;
    return true;
  }
  GuestOps ops{.name = "flat", .fetch = fetch, .key = [](const GuestCpu&) { return self->key.raw; }, .translate = x86::translate};

  static bool probe(GuestCpu&, u64 address, u16, PageView& view) {
    const u64 page = address & ~u64{4095};
    const u64 box = reinterpret_cast<u64>(test::sandbox());
    if (self->sandbox && page >= box && page < box + test::sandbox_bytes)
      return view = {.host = self->shadow + (page - box), .page = 300 + (page >> 12 & 15), .writable = true}, true;
    if (page >= data_at && page < data_at + data_bytes)
      return view = {.host = self->data_page((page - data_at) >> 12), .page = 200 + (page >> 12 & 15), .writable = true}, true;
    if (page >= code_at && page < code_at + 0x4000)
      return view = {.host = self->code + (page - code_at), .page = 100 + (page >> 12 & 15)}, true;
    return false;
  }
  MemoryOps memory{.probe = probe};

  explicit Flat(u64 cache_bytes = 64 * MiB, TableShape shape = FirstTier::default_shape()) {
    self = this;
    cpu.memory = &memory;
    (void)OK([]() -> Result<int> {
      TRY(prepare_signal_stack());
      return 0;
    }());
    tier = OK(FirstTier::make(store, cache_bytes, shape));
    tier->trust_all_memory();
    for (unsigned f = 1; f < unsigned(x86::Feature::count); f++) cpu.features.add(static_cast<x86::Feature>(f));
    engine = std::make_unique<FirstTierCpu>(*tier, cpu, ops, *this, state, 0);
    (void)OK([this]() -> Result<int> {
      TRY(engine->start());
      return 0;
    }());
    code = static_cast<u8*>(mmap(nullptr, 0x4000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    data = static_cast<u8*>(mmap(nullptr, data_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    shadow = static_cast<u8*>(mmap(nullptr, test::sandbox_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  }
  ~Flat() override {
    munmap(code, 0x4000);
    munmap(shadow, test::sandbox_bytes);
    munmap(data, data_bytes);
  }

  void step() override {
    steps++;
    cpu.leave = true;
  }
  bool takes(u64) const override { return true; }
  bool code64(u64) const override { return true; }
  bool refuses(u64 target) const override { return static_cast<u64>(static_cast<i64>(target << 16) >> 16) != target; }
  Tables::Which context() const override { return Tables::KU; }
  void segment_bases(u64 (&bases)[6]) const override { std::memset(bases, 0, sizeof bases); }
  bool global_code(u64) override { return false; }
  void drop_writes(u64) override {}
  std::vector<u64> asked;  // pages that all vCPUs were to give up
  void drop_writes_of_all(u64 page) override {
    asked.push_back(page);
    pages.get(page)->writers.store(0);
  }

  // Runs from `ip` until the instruction pointer is `until`, a fault, or an interpreted instruction.
  void run(u64 ip, u64 until) {
    state.rip = ip;
    cpu.leave = cpu.fault = false;
    steps = 0;
    for (unsigned i = 0; i < 100 && state.rip != until && !cpu.leave && !cpu.fault; i++) {
      (void)engine->run();
      cpu.poll.store(1, std::memory_order_seq_cst);  // who spends a budget of guesses asks for the loop, which looks at nothing here
    }
  }
};

// Runs bytes natively with the registers and flags of `state`.
class Native {
 public:
  Native() {
    code_ = static_cast<u8*>(mmap(reinterpret_cast<void*>(code_at), 0x4000, PROT_READ | PROT_WRITE | PROT_EXEC,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
    data = static_cast<u8*>(mmap(reinterpret_cast<void*>(data_at), data_bytes, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
    stub_ = static_cast<u8*>(mmap(reinterpret_cast<void*>(stub_at), 0x4000, PROT_READ | PROT_WRITE | PROT_EXEC,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
  }
  ~Native() {
    munmap(code_, 0x4000);
    munmap(data, data_bytes);
    munmap(stub_, 0x4000);
  }
  void run(std::span<const u8> bytes, x::State& s) {
    using namespace x64;
    const auto at = [](u64 offset) { return Mem{.disp = static_cast<i32>(stub_at + 0x2000 + offset)}; };
    u64* const file = reinterpret_cast<u64*>(stub_ + 0x2000);
    for (unsigned i = 0; i < 16; i++) file[i] = s.gpr[i];
    file[16] = (s.rflags & x::arithmetic_flags) | 2;
    for (unsigned i = 0; i < 16; i++) std::memcpy(file + 32 + 4 * i, s.vector[i].lane.data(), 32);
    Buffer b{{stub_, 0x2000}};
    Assembler a{b};
    for (const Reg r : {Reg::rbx, Reg::rbp, Reg::r12, Reg::r13, Reg::r14, Reg::r15}) a.push(r);
    a.mov(at(18 * 8), Reg::rsp);
    for (u8 i = 0; i < 16; i++) a.vmovups_load256(i, at(256 + 32u * i));
    a.mov(Reg::rax, at(16 * 8));
    a.push(Reg::rax);
    a.popfq();
    for (u8 i = 0; i < 16; i++) a.mov(static_cast<Reg>(i), at(8u * i));
    a.out().byte(0xe9);
    b.value(static_cast<u32>(code_at - (stub_at + a.here() + 4)));
    const usize back = a.here();
    for (u8 i = 0; i < 16; i++) a.mov(at(8u * i), static_cast<Reg>(i));
    a.mov(Reg::rsp, at(18 * 8));
    a.pushfq();
    a.pop(Reg::rax);
    a.mov(at(17 * 8), Reg::rax);
    for (u8 i = 0; i < 16; i++) a.vmovups_store256(at(256 + 32u * i), i);
    a.vzeroupper();
    for (const Reg r : {Reg::r15, Reg::r14, Reg::r13, Reg::r12, Reg::rbp, Reg::rbx}) a.pop(r);
    a.ret();
    std::memcpy(code_, bytes.data(), bytes.size());
    code_[bytes.size()] = 0xe9;
    const u32 distance = static_cast<u32>(stub_at + back - (code_at + bytes.size() + 5));
    std::memcpy(code_ + bytes.size() + 1, &distance, 4);
    reinterpret_cast<void (*)()>(stub_)();
    for (unsigned i = 0; i < 16; i++) s.gpr[i] = file[i];
    s.rflags = (s.rflags & ~u64{x::arithmetic_flags}) | (file[17] & x::arithmetic_flags);
    for (unsigned i = 0; i < 16; i++) std::memcpy(s.vector[i].lane.data(), file + 32 + 4 * i, 32);
  }
  u8* data = nullptr;

 private:
  static constexpr u64 stub_at = 0x5200'0000;
  u8 *code_ = nullptr, *stub_ = nullptr;
};

// One shape of instruction: how to make bytes of it.
struct Shape {
  u8 map, opcode;
  u8 simd = 0;       // mandatory prefix
  i8 ext = -1;       // opcode extension
  u8 imm = 0;        // bytes; 4: operand size, at most 4
  bool wide = true;  // may take 66 and REX.W
  u8 rm_bytes = 0;   // size of the memory operand if not the operand size
  bool memory = true, reg = true;
  bool vex = false;
  bool vector = false;
};

constexpr Shape shapes[] = {
    {0, 0x00},
    {0, 0x01},
    {0, 0x02},
    {0, 0x03},
    {0, 0x11},
    {0, 0x13},
    {0, 0x19},
    {0, 0x21},
    {0, 0x28},
    {0, 0x29},
    {0, 0x2b},
    {0, 0x31},
    {0, 0x30},
    {0, 0x39},
    {0, 0x38},
    {0, 0x3a},
    {0, 0x3b},
    {0, 0x63, .rm_bytes = 4},
    {0, 0x69, .imm = 4},
    {0, 0x6b, .imm = 1},
    {0, 0x80, .ext = 0, .imm = 1},
    {0, 0x80, .ext = 7, .imm = 1},
    {0, 0x81, .ext = 1, .imm = 4},
    {0, 0x81, .ext = 4, .imm = 4},
    {0, 0x83, .ext = 5, .imm = 1},
    {0, 0x83, .ext = 3, .imm = 1},
    {0, 0x84},
    {0, 0x85},
    {0, 0x86},
    {0, 0x87},
    {0, 0x88},
    {0, 0x89},
    {0, 0x8a},
    {0, 0x8b},
    {0, 0x8d, .reg = false},
    {0, 0xc0, .ext = 4, .imm = 1},
    {0, 0xc1, .ext = 0, .imm = 1},
    {0, 0xc1, .ext = 7, .imm = 1},
    {0, 0xc6, .ext = 0, .imm = 1},
    {0, 0xc7, .ext = 0, .imm = 4},
    {0, 0xd1, .ext = 2},
    {0, 0xd2, .ext = 5},
    {0, 0xd3, .ext = 4},
    {0, 0xd3, .ext = 1},
    {0, 0xf6, .ext = 0, .imm = 1},
    {0, 0xf6, .ext = 2},
    {0, 0xf6, .ext = 4},
    {0, 0xf7, .ext = 0, .imm = 4},
    {0, 0xf7, .ext = 3},
    {0, 0xf7, .ext = 4},
    {0, 0xf7, .ext = 5},
    {0, 0xfe, .ext = 0},
    {0, 0xff, .ext = 1},
    {1, 0x40},
    {1, 0x44},
    {1, 0x4f},
    {1, 0x92},
    {1, 0x9c},
    {1, 0xa3, .memory = false},
    {1, 0xab, .memory = false},
    {1, 0xa4, .imm = 1},
    {1, 0xa5},
    {1, 0xad},
    {1, 0xaf},
    {1, 0xb0},
    {1, 0xb1},
    {1, 0xb6, .rm_bytes = 1},
    {1, 0xb7, .rm_bytes = 2},
    {1, 0xba, .ext = 6, .imm = 1},
    {1, 0xbc},
    {1, 0xbd},
    {1, 0xb8, .simd = 0xf3},
    {1, 0xbc, .simd = 0xf3},
    {1, 0xbe, .rm_bytes = 1},
    {1, 0xbf, .rm_bytes = 2},
    {1, 0xc0},
    {1, 0xc1},
};

struct Source {
  std::mt19937_64 random{20261121};
  u64 below(u64 n) { return random() % n; }
  u64 value() {
    static constexpr u64 edges[] = {0,      1,           0x7f,        0x80,        0xff,    0x7fff,       0x8000,
                                    0xffff, 0x7fff'ffff, 0x8000'0000, 0xffff'ffff, ~u64{0}, u64{1} << 63, ~u64{0} >> 1};
    return below(4) ? random() : edges[below(std::size(edges))];
  }
};

std::vector<u8> make(const Shape& shape, Source& s, x::State& state) {
  std::vector<u8> out;
  const bool byte_op = shape.map == 0 ? !(shape.opcode & 1) && shape.opcode != 0x6b && shape.opcode != 0xd3
                                      : shape.map == 1 && (shape.opcode == 0xb0 || shape.opcode == 0xc0 || (shape.opcode & 0xf0) == 0x90);
  const bool p66 = shape.wide && !byte_op && s.below(4) == 0;
  u8 rex = s.below(2) ? 0x40 | s.below(16) : 0;
  if (p66) out.push_back(0x66);
  const bool memory = shape.memory && (!shape.reg || s.below(2));
  const bool addr32 = memory && s.below(12) == 0;
  if (addr32) out.insert(out.begin(), 0x67);
  if (shape.simd) out.push_back(shape.simd);
  if (!shape.wide) rex &= ~8;
  u8 modrm = static_cast<u8>((shape.ext >= 0 ? shape.ext : s.below(8)) << 3);
  std::vector<u8> tail;
  if (!memory) {
    modrm |= 0xc0 | s.below(8);
  } else {
    const u64 target = data_at + 0x100 + (s.below(4) ? s.below(0x800) : 0xef0 + s.below(0x20));
    const unsigned form = s.below(5);
    const i32 disp = form == 1 ? static_cast<i8>(s.random()) : form == 2 ? static_cast<i32>(s.random() >> 40) - (1 << 22) : 0;
    const bool sib = s.below(2);
    unsigned base = s.below(8), index = s.below(8);
    const unsigned x = rex >> 1 & 1, b = rex & 1, scale = s.below(4);
    u64 indexed = 0;
    if (sib && (index | x << 3) != 4) {
      if ((index | x << 3) == (base | b << 3)) base = (base + 1) & 7;
      state.gpr[index | x << 3] = s.below(64);
      indexed = state.gpr[index | x << 3] << scale;
    }
    const unsigned mod = form == 1 ? 1 : form == 2 ? 2 : (base & 7) == 5 ? 1 : 0;
    if (!sib && base == 4) base = 3;
    state.gpr[base | b << 3] = target - static_cast<u64>(static_cast<i64>(disp)) - indexed;
    if (addr32) state.gpr[base | b << 3] = static_cast<u32>(state.gpr[base | b << 3]) | (s.random() << 32);
    modrm |= static_cast<u8>(mod << 6 | (sib ? 4 : base));
    if (sib) tail.push_back(static_cast<u8>(scale << 6 | index << 3 | base));
    if (mod == 1) tail.push_back(static_cast<u8>(disp));
    if (mod == 2)
      for (int i = 0; i < 4; i++) tail.push_back(static_cast<u8>(static_cast<u32>(disp) >> (8 * i)));
  }
  if (rex) out.push_back(rex);
  if (shape.map) out.push_back(0x0f);
  out.push_back(shape.opcode);
  out.push_back(modrm);
  out.insert(out.end(), tail.begin(), tail.end());
  const unsigned imm = shape.imm == 4 ? (p66 && !(rex & 8) ? 2 : 4) : shape.imm;
  for (unsigned i = 0; i < imm; i++) out.push_back(static_cast<u8>(s.random()));
  return out;
}

std::string hex(std::span<const u8> bytes) {
  std::string t;
  for (const u8 b : bytes) t += format("{:02x} ", b);
  return t;
}

TEST(first_tier_agrees_with_the_host_on_single_integer_instructions) {
  Flat flat;
  Native native;
  Source s;
  unsigned passed = 0, stepped = 0;
  for (unsigned round = 0; round < test::rounds(150); round++) {
    for (const Shape& shape : shapes) {
      x::State start = flat.state;
      for (u64& g : start.gpr) g = s.value();
      start.rflags = 2 | (s.random() & x::arithmetic_flags);
      const std::vector<u8> bytes = make(shape, s, start);
      std::vector<u8> memory(data_bytes);
      for (u8& b : memory) b = static_cast<u8>(s.random());
      std::memcpy(native.data, memory.data(), data_bytes);
      std::memcpy(flat.data, memory.data(), data_bytes);
      x::State want = start;
      native.run(bytes, want);

      flat.store.invalidate_all();
      std::memcpy(flat.code, bytes.data(), bytes.size());
      flat.code[bytes.size()] = 0xf4;  // hlt: left to the interpreter
      flat.state = start;
      flat.run(code_at, code_at + bytes.size());
      if (flat.state.rip == code_at) {
        stepped++;
        continue;
      }
      passed++;
      for (unsigned i = 0; i < 16; i++)
        if (flat.state.gpr[i] != want.gpr[i])
          test::failed(
              "registers", __FILE__, __LINE__,
              format("{}: register {} is {:#x}, host {:#x}, was {:#x}", hex(bytes), i, flat.state.gpr[i], want.gpr[i], start.gpr[i]));
      if ((flat.state.rflags ^ want.rflags) & x::arithmetic_flags)
        test::failed("flags", __FILE__, __LINE__, format("{}: flags {:#x}, host {:#x}", hex(bytes), flat.state.rflags, want.rflags));
      if (std::memcmp(flat.data, native.data, data_bytes) != 0) test::failed("memory", __FILE__, __LINE__, hex(bytes));
    }
  }
  if (stepped * 20 > passed)
    test::failed("few are left to the interpreter", __FILE__, __LINE__, format("{} of {}", stepped, stepped + passed));
}

// Programs with control flow, by hand: run to their last byte natively and translated, from equal state.
void compare_program(Flat& flat, Native& native, std::span<const u8> bytes, x::State start) {
  std::memset(native.data, 0x5a, data_bytes);
  std::memset(flat.data, 0x5a, data_bytes);
  x::State want = start;
  native.run(bytes, want);
  flat.store.invalidate_all();
  std::memcpy(flat.code, bytes.data(), bytes.size());
  flat.code[bytes.size()] = 0xf4;
  flat.state = start;
  flat.run(code_at, code_at + bytes.size());
  // A store over two pages is the interpreter's. (So is the hlt behind the end.)
  if (flat.scattered && flat.steps && flat.state.rip != code_at + bytes.size()) return;
  CHECK_EQ(flat.state.rip, code_at + bytes.size());
  for (unsigned i = 0; i < 16; i++) CHECK_EQ(flat.state.gpr[i], want.gpr[i]);
  CHECK_EQ(flat.state.rflags & x::arithmetic_flags, want.rflags & x::arithmetic_flags);
  // What lies below the stack pointer after calls is equal too: pushes store the same values.
  for (u64 n = 0; n < data_bytes / 4096; n++) CHECK(std::memcmp(flat.data_page(n), native.data + 4096 * n, 4096) == 0);
}

TEST(first_tier_agrees_with_the_host_on_flow_and_stack) {
  Flat flat;
  Native native;
  x::State start;
  Source s;
  for (u64& g : start.gpr) g = s.value();
  start.gpr[x::rsp] = data_at + 0x2004;  // pushes cross a page
  start.rflags = 2;
  // mov ecx,50; xor eax,eax; l: push rcx; push r12; add rax,rcx; imul rdx,rax,3; xor r13,rdx; pop r14; pop rcx; dec rcx; jnz l
  const u8 loop[] = {0xb9, 50,   0,    0,    0,    0x31, 0xc0, 0x51, 0x41, 0x54, 0x48, 0x01, 0xc8, 0x48,
                     0x6b, 0xd0, 0x03, 0x49, 0x31, 0xd5, 0x41, 0x5e, 0x59, 0x48, 0xff, 0xc9, 0x75, 0xeb};
  compare_program(flat, native, loop, start);
  // mov edi,12; call fib; jmp end; fib: mov eax,edi; cmp edi,2; jb ret; push rdi; dec edi; call fib; pop rdi; push rax; sub edi,2; call
  // fib; pop rdx; add eax,edx; ret
  const u8 fib[] = {0xbf, 12,   0,    0,    0,    0xe8, 2,    0,    0,    0,    0xeb, 0x21, 0x89, 0xf8, 0x83,
                    0xff, 0x02, 0x72, 0x19, 0x57, 0xff, 0xcf, 0xe8, 0xf1, 0xff, 0xff, 0xff, 0x5f, 0x50, 0x83,
                    0xef, 0x02, 0xe8, 0xe7, 0xff, 0xff, 0xff, 0x5a, 0x01, 0xd0, 0xc3, 0x90, 0x90, 0xc3, 0x90};
  x::State fib_start = start;
  compare_program(flat, native, fib, fib_start);
  // lea rbx,[rip+x]; call rbx; jmp end; x: push -7; push qword [rsp]; pop r8; pop r9; mov ecx,3; y: loop y; jrcxz z; ud2; z: enter-less
  // leave: mov rbp,rsp; leave… ret
  const u8 mixed[] = {0x48, 0x8d, 0x1d, 0x04, 0, 0,    0,    0xff, 0xd3, 0xeb, 0x1d, 0x6a, 0xf9, 0xff, 0x34, 0x24, 0x41, 0x58, 0x41, 0x59,
                      0xb9, 3,    0,    0,    0, 0xe2, 0xfe, 0xe3, 0x02, 0x0f, 0x0b, 0x55, 0x48, 0x89, 0xe5, 0xc9, 0xc2, 0x00, 0x00, 0x90};
  compare_program(flat, native, mixed, start);
}

// The test of a call's target must not take the window that the return address goes by.
TEST(first_tier_writes_the_return_address_of_an_indirect_call_where_it_belongs) {
  Flat flat;
  Native native;
  x::State start;
  start.gpr[x::rsp] = data_at + 0x2800;
  start.rflags = 2;
  // mov ecx,3; l: lea rsp,[rsp-32]; lea rbx,[rip+4]; push rax; push rdx; call rbx; pop r8; pop rdx; pop rax; dec ecx; jnz l
  const u8 code[] = {0xb9, 3, 0,    0,    0,    0x48, 0x8d, 0x64, 0x24, 0xe0, 0x48, 0x8d, 0x1d, 4,   0,
                     0,    0, 0x50, 0x52, 0xff, 0xd3, 0x41, 0x58, 0x5a, 0x58, 0xff, 0xc9, 0x75, 0xe8};
  compare_program(flat, native, code, start);
  CHECK_EQ(flat.tier->counters().signals.load(), 0u);
}

// A loop that never branches backward, only returns to what a call noted: who asks for the vCPU is heard.
TEST(first_tier_hears_requests_in_a_loop_of_returns) {
  Flat flat;
  // call f; mov [rdi],ecx; dec ecx; jz f; lea rsp,[rsp-8]; f: ret
  const u8 code[] = {0xe8, 11, 0, 0, 0, 0x89, 0x0f, 0xff, 0xc9, 0x74, 0x05, 0x48, 0x8d, 0x64, 0x24, 0xf8, 0xc3};
  std::memcpy(flat.code, code, sizeof code);
  flat.state.gpr[x::rsp] = data_at + 0x800;
  flat.state.gpr[x::rdi] = data_at + 0x1000;
  flat.state.gpr[x::rcx] = 0xffff'ffff;
  flat.state.rip = code_at;
  std::atomic_ref<u32> count{*reinterpret_cast<u32*>(flat.data_page(1))};
  std::jthread asks([&] {
    while (count.load() == 0 || count.load() > 0xffff'f000) std::this_thread::yield();
    flat.cpu.poll.store(0, std::memory_order_seq_cst);
  });
  (void)flat.engine->run();
  CHECK(count.load() > 0x1000);
  CHECK_EQ(flat.state.rip, code_at + 5);
  asks.join();
}

// Code appears on a page that another vCPU may write: it is asked, and only then is anything translated. Who was the only writer is not
// counted any longer, or the next such page would cost a walk through every log.
TEST(first_tier_asks_other_writers_of_a_page_before_it_makes_code_of_it) {
  Flat flat;
  const u8 code[] = {0xff, 0xc0, 0xf4};  // inc eax; hlt
  std::memcpy(flat.code, code, sizeof code);
  CodePage* const words = flat.pages.get(100);
  words->writers.store(1u << 5), words->fills.store(2);
  flat.run(code_at, code_at + 2);
  CHECK(flat.state.gpr[x::rax] == 1 && flat.asked == std::vector<u64>{100});
  flat.store.invalidate_all();
  words->writers.store(1), words->fills.store(2);
  flat.run(code_at, code_at + 2);
  CHECK(flat.state.gpr[x::rax] == 2 && flat.asked.size() == 1 && words->fills.load() == 0);
}

// Addends that are guessed: a ring whose elements lie in pages far apart, an inner loop in the block that enters it, a jump over nothing.
void chains(bool user) {
  Flat flat;
  flat.scattered = true;
  if (user) flat.key.raw &= ~u64{ModeKey::cpl0};
  Native native;
  // mov ecx,24; l: lea rsi,[rdi+1a8]; mov [rdi],rsi; mov rdi,rsi; dec ecx; jnz l; mov [rdi],rbx; mov rdi,rbx; mov ecx,200;
  // m: mov rax,[rdi+8]; add rdx,rax; mov rdi,[rdi]; jmp +0; dec ecx; jnz m
  const u8 code[] = {0xb9, 24,   0,    0,    0,    0x48, 0x8d, 0xb7, 0xa8, 0x01, 0,    0,    0x48, 0x89, 0x37, 0x48, 0x89,
                     0xf7, 0xff, 0xc9, 0x75, 0xef, 0x48, 0x89, 0x1f, 0x48, 0x89, 0xdf, 0xb9, 200,  0,    0,    0,    0x48,
                     0x8b, 0x47, 0x08, 0x48, 0x01, 0xc2, 0x48, 0x8b, 0x3f, 0xeb, 0,    0xff, 0xc9, 0x75, 0xf0};
  for (unsigned round = 0; round < 20; round++) {
    x::State start;
    start.gpr[x::rsp] = data_at + 0x3000;
    start.gpr[x::rbx] = start.gpr[x::rdi] = data_at + 0x10 * round;
    start.rflags = 2;
    compare_program(flat, native, code, start);
  }
}
TEST(first_tier_agrees_with_the_host_on_chains_of_pointers) { chains(false); }
TEST(first_tier_agrees_with_the_host_on_chains_of_pointers_of_a_user) { chains(true); }

// Access groups (translator.md §4.3): bases near page ends, stores among loads, registers that move by constants, copies, joins.
// Loops whose block holds several copies of the body, left in each copy; strides over page ends; spilled counters and bases.
void unrolled_loops(bool hot) {
  Flat flat;
  flat.scattered = true;
  if (hot) flat.tier->promote_all();
  Native native;
  Source s;
  // l: mov rax,[r9+rcx*8]; add rdx,rax; add [r12],rdx; jo +3; lea rsi,[rsi+1]… ; lea r9,[r9+24]; sub r12,-16; dec r13; jnz l
  const u8 loop[] = {0x49, 0x8b, 0x04, 0xc9, 0x48, 0x01, 0xc2, 0x49, 0x01, 0x14, 0x24, 0x70, 0x04, 0x48, 0x8d,
                     0x76, 0x01, 0x4d, 0x8d, 0x49, 0x18, 0x49, 0x83, 0xec, 0xf0, 0x49, 0xff, 0xcd, 0x75, 0xe2};
  // l: movzx eax,word [r9]; lea r9,[r9+2]; cmp r9,rbx; jae +2; jmp l
  const u8 scan[] = {0x41, 0x0f, 0xb7, 0x01, 0x4d, 0x8d, 0x49, 0x02, 0x4c, 0x39, 0xd9,
                     0x4c, 0x01, 0xc0, 0x49, 0x39, 0xd9, 0x73, 0x02, 0xeb, 0xeb};
  // Down a column of a matrix, sums along a row: groups whose extents lie in two pages, each in its turn.
  // l: movsx edx,word [r9]; add esi,edx; movsx edx,word [r9+30]; add [r12+8],edx; add r9,60; sub r12,-24; cmp r9,rbx; jb l
  const u8 column[] = {0x41, 0x0f, 0xbf, 0x11, 0x01, 0xd6, 0x41, 0x0f, 0xbf, 0x51, 0x30, 0x41, 0x01, 0x54, 0x24,
                       0x08, 0x49, 0x83, 0xc1, 0x60, 0x49, 0x83, 0xec, 0xe8, 0x49, 0x39, 0xd9, 0x72, 0xe3};
  for (unsigned round = 0; round < 60; round++) {
    x::State start;
    for (u64& g : start.gpr) g = s.value();
    start.gpr[x::r9] = data_at + 0xb00 + 2 * s.below(0x300), start.gpr[x::r12] = data_at + 0x1e00 + s.below(0x280);
    start.gpr[x::rbx] = start.gpr[x::r9] + 0x60 * s.below(30);
    start.rflags = 2;
    compare_program(flat, native, column, start);
  }
  for (unsigned round = 0; round < 60; round++) {
    x::State start;
    for (u64& g : start.gpr) g = s.value();
    start.gpr[x::r9] = data_at + 0xe00 + s.below(0x200), start.gpr[x::r12] = data_at + 0x2000 + 8 * s.below(0x20);
    start.gpr[x::rcx] = s.below(8), start.gpr[x::r13] = 1 + s.below(60);
    start.rflags = 2;
    compare_program(flat, native, loop, start);
    start.gpr[x::rbx] = start.gpr[x::r9] + 1 + s.below(600);
    compare_program(flat, native, scan, start);
  }
}
TEST(first_tier_agrees_with_the_host_on_unrolled_loops) { unrolled_loops(false); }
TEST(first_tier_agrees_with_the_host_on_hot_loops) { unrolled_loops(true); }

// A loop whose polls find it running again and again is translated anew, with more of its turns in a block.
TEST(first_tier_makes_more_of_a_loop_that_is_found_running) {
  Flat flat;
  flat.scattered = true;
  Native native;
  // s: mov ecx,1; mov rdi,rbx; l: movsx edx,word [rdi]; add esi,edx; movsx edx,word [rdi+30]; add esi,edx; add rdi,60; add ecx,2;
  // cmp ecx,25; jne l; dec r8d; jnz s
  const u8 code[] = {0xb9, 1,    0,    0,    0,    0x48, 0x89, 0xdf, 0x0f, 0xbf, 0x17, 0x01, 0xd6, 0x0f, 0xbf, 0x57, 0x30, 0x01,
                     0xd6, 0x48, 0x83, 0xc7, 0x60, 0x83, 0xc1, 0x02, 0x83, 0xf9, 25,   0x75, 0xe9, 0x41, 0xff, 0xc8, 0x75, 0xdc};
  for (u64 i = 0; i < data_bytes; i++) native.data[i] = static_cast<u8>(i * 7 + i / 251);
  for (u64 n = 0; n < data_bytes / 4096; n++) std::memcpy(flat.data_page(n), native.data + 4096 * n, 4096);
  x::State start;
  start.gpr[x::rbx] = data_at + 0xd50, start.gpr[x::rsp] = data_at + 0x3000, start.gpr[x::r8] = 2'000'000;
  start.rflags = 2;
  x::State want = start;
  native.run(code, want);
  std::memcpy(flat.code, code, sizeof code);
  flat.code[sizeof code] = 0xf4;
  std::atomic<bool> runs{false};
  std::jthread asks([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      runs.wait(false);
      runs = false;
      flat.cpu.poll.store(0, std::memory_order_seq_cst);
    }
  });
  const auto runs_as_the_host_did = [&] {
    flat.state = start, flat.state.rip = code_at, flat.cpu.leave = false;
    while (flat.state.rip != code_at + sizeof code && !flat.cpu.leave && !flat.cpu.fault) {
      flat.cpu.poll.store(1, std::memory_order_seq_cst);
      runs = true, runs.notify_one();
      (void)flat.engine->run();
    }
    return flat.state.gpr == want.gpr;
  };
  // On a busy host who asks may come too late, and the program has ended: again, then.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds{60};
  bool same = runs_as_the_host_did();
  while (same && !flat.tier->counters().hot_blocks.load() && std::chrono::steady_clock::now() < deadline) same = runs_as_the_host_did();
  same = same && runs_as_the_host_did();  // from its beginning in the longer form
  asks.request_stop();
  runs = true, runs.notify_one();
  CHECK(flat.tier->counters().hot_blocks.load() > 0);
  CHECK(same);
}

void groups(bool scattered, TableShape shape, bool hot = false) {
  Flat flat{64 * MiB, shape};
  flat.scattered = scattered;
  if (hot) flat.tier->promote_all();
  Native native;
  Source s;
  // One access or change of a base; r12 is spilled, r9 is pinned, rsp moves.
  static const std::vector<std::vector<u8>> pieces = {
      {0x49, 0x8b, 0x41, 0x10},                    // mov rax,[r9+16]
      {0x49, 0x89, 0x41, 0xf0},                    // mov [r9-16],rax
      {0x41, 0x8b, 0x51, 0x06},                    // mov edx,[r9+6]
      {0x41, 0x0f, 0xb6, 0x59, 0x3f},              // movzx ebx,byte [r9+63]
      {0x49, 0x8b, 0x44, 0x24, 0x08},              // mov rax,[r12+8]
      {0x4d, 0x89, 0x6c, 0x24, 0xe8},              // mov [r12-24],r13
      {0x4c, 0x8b, 0x34, 0x24},                    // mov r14,[rsp]
      {0x48, 0x01, 0x44, 0x24, 0x18},              // add [rsp+24],rax
      {0x50},                                      // push rax
      {0x41, 0x55},                                // push r13
      {0x5b},                                      // pop rbx
      {0x48, 0x83, 0xec, 0x18},                    // sub rsp,24
      {0x48, 0x83, 0xc4, 0x08},                    // add rsp,8
      {0x4d, 0x8d, 0x49, 0x05},                    // lea r9,[r9+5]
      {0x49, 0x83, 0xc1, 0x20},                    // add r9,32
      {0x4c, 0x89, 0xcf},                          // mov rdi,r9
      {0x48, 0x8b, 0x77, 0x20},                    // mov rsi,[rdi+32]
      {0x4d, 0x8b, 0x54, 0x89, 0x04},              // mov r10,[r9+rcx*4+4]
      {0x45, 0x01, 0x54, 0x89, 0x14},              // add [r9+rcx*4+20],r10d
      {0x74, 0x04, 0x49, 0x8b, 0x51, 0x18},        // jz +4; mov rdx,[r9+24]
      {0x78, 0x05, 0x4c, 0x89, 0x64, 0x24, 0x20},  // js +5; mov [rsp+32],r12
      {0x48, 0x85, 0xc0},                          // test rax,rax
      {0xf3, 0x41, 0x0f, 0x6f, 0x41, 0x21},        // movdqu xmm0,[r9+33]
      {0x49, 0x0f, 0xaf, 0x51, 0x28},              // imul rdx,[r9+40]
      {0xd3, 0xe2},                                // shl edx,cl
  };
  for (unsigned round = 0; round < 400; round++) {
    if (round == 200) flat.key.raw &= ~u64{ModeKey::cpl0};  // users' loads guess by the page
    std::vector<u8> code;
    for (unsigned n = 3 + s.below(20); n; n--) {
      const std::vector<u8>& piece = pieces[s.below(pieces.size())];
      code.insert(code.end(), piece.begin(), piece.end());
    }
    x::State start;
    for (u64& g : start.gpr) g = s.value();
    const auto somewhere = [&] { return data_at + (s.below(2) ? 0xf00 + s.below(0x200) : 0x1e00 + s.below(0x300)); };
    start.gpr[x::r9] = somewhere(), start.gpr[x::r12] = somewhere(), start.gpr[x::rsp] = somewhere(), start.gpr[x::rdi] = somewhere();
    start.gpr[x::rcx] = s.below(16);
    start.rflags = 2;
    compare_program(flat, native, code, start);
  }
}
TEST(first_tier_agrees_with_the_host_on_groups_of_accesses) { groups(false, FirstTier::default_shape()); }
TEST(first_tier_agrees_with_the_host_on_groups_in_two_pages) { groups(true, FirstTier::default_shape()); }
TEST(first_tier_agrees_with_the_host_on_groups_of_hot_blocks) { groups(true, FirstTier::default_shape(), true); }
TEST(first_tier_agrees_with_the_host_on_groups_by_tagged_tables) { groups(true, TableShape::tagged); }

// bt, bts, btr, btc with a bit number in a register: bytes before and after the operand, page ends, LOCK, spilled registers.
TEST(first_tier_agrees_with_the_host_on_bit_strings) {
  Flat flat;
  Native native;
  Source s;
  for (unsigned round = 0; round < 600; round++) {
    x::State start;
    for (u64& g : start.gpr) g = s.value();
    start.rflags = 2 | (s.value() & x::arithmetic_flags);
    constexpr u8 opcodes[] = {0xa3, 0xab, 0xb3, 0xbb};
    const u8 opcode = opcodes[s.below(4)];
    const bool wide = s.below(2), lock = opcode != 0xa3 && s.below(2), high = s.below(2), high_base = s.below(2);
    const u64 bit = static_cast<u64>(static_cast<i64>(s.below(0x8000)) - 0x4000);
    start.gpr[high ? x::r13 : x::rdx] = wide ? bit : static_cast<u32>(bit) | s.value() << 32;
    start.gpr[high_base ? x::r14 : x::rbx] = data_at + 0x2000 + 8 * s.below(256) + (lock ? 0 : s.below(8));
    std::vector<u8> bytes;
    if (lock) bytes.push_back(0xf0);
    bytes.push_back(static_cast<u8>(0x40 | wide << 3 | high << 2 | high_base));
    bytes.insert(bytes.end(), {0x0f, opcode, static_cast<u8>(0x40 | (high ? 5 : 2) << 3 | (high_base ? 6 : 3)), 8});  // disp8
    compare_program(flat, native, bytes, start);
  }
}

TEST(first_tier_leaves_state_exact_where_an_access_cannot_be_done) {  // translator.md §13, 3
  Flat flat;
  // push [unmapped]; each register and flag must stand as before the instruction
  const u8 bytes[] = {0x48, 0x39, 0xc8, 0x41, 0xff, 0x34, 0x24, 0xf4};  // cmp rax,rcx; push qword [r12]
  std::memcpy(flat.code, bytes, sizeof bytes);
  for (unsigned i = 0; i < 16; i++) flat.state.gpr[i] = 0x1111'0000 + i;
  flat.state.gpr[x::rsp] = data_at + 0x100;
  flat.run(code_at, code_at + 7);
  CHECK_EQ(flat.state.rip, code_at + 3);
  CHECK_EQ(flat.steps, 1u);
  CHECK_EQ(flat.state.gpr[x::rsp], data_at + 0x100);
  CHECK_EQ(flat.state.gpr[x::r12], 0x1111'000cu);
  CHECK(flat.state.rflags & x::flag_cf);
}

TEST(first_tier_turns_a_division_fault_into_interpretation) {
  Flat flat;
  const u8 bytes[] = {0x31, 0xc9, 0xf7, 0xf1, 0xf4};  // xor ecx,ecx; div ecx
  std::memcpy(flat.code, bytes, sizeof bytes);
  flat.state.gpr[x::rax] = 5;
  flat.run(code_at, code_at + 4);
  CHECK_EQ(flat.state.rip, code_at + 2);
  CHECK_EQ(flat.state.gpr[x::rax], 5u);
  CHECK_EQ(flat.tier->counters().signals.load(), 1u);
}

TEST(first_tier_forgets_code_that_was_overwritten) {  // translator.md §13, 22
  Flat flat;
  const u8 bytes[] = {0xb8, 1, 0, 0, 0, 0xf4};  // mov eax,1
  std::memcpy(flat.code, bytes, sizeof bytes);
  flat.run(code_at, code_at + 5);
  CHECK_EQ(flat.state.gpr[x::rax], 1u);
  flat.code[1] = 7;
  CHECK_EQ(flat.store.invalidate(100, 1, 1), 1u);
  flat.run(code_at, code_at + 5);
  CHECK_EQ(flat.state.gpr[x::rax], 7u);
}

// Every row that passes, in random encodings, against the host; at a fault the state must be that of before the instruction.
void every_row(TableShape shape) {
  Flat flat{64 * MiB, shape};
  std::vector<u8> code;
  u8* const box = test::sandbox();
  flat.sandbox = true;
  std::string failures, silent;
  unsigned failed = 0, rows = 0, passing = 0;
  for (const x86::MapRows& map : x86::all_rows()) {
    for (const x86::Row& row : map.rows) {
      if (!row.t.pass || row.t.mode == x86::Mode::no64) continue;
      const std::string_view name = row.name;
      if (name == "rdrand" || name == "rdseed" || row.t.kind == x86::Kind::branch || row.t.kind == x86::Kind::loop_) continue;
      test::Random random{u64{0x1234'5678'9abc} + u64{rows++} * 77};
      unsigned passed = 0;
      for (unsigned i = 0; i < test::rounds(60); i++) {
        x::State start;
        if (!test::encode_random(row, map.map, random, code, start)) break;
        std::vector<u8> before(box, box + test::sandbox_bytes);
        x::State want = start;
        const test::Outcome n = test::run_native(code, want);
        if (n.fault == x::vector_ud) continue;
        std::memcpy(flat.shadow, before.data(), before.size());
        flat.store.invalidate_all();
        std::memcpy(flat.code, code.data(), code.size());
        flat.code[code.size()] = 0xf4;
        flat.state = start;
        flat.run(code_at, code_at + code.size());
        const bool stepped = flat.state.rip == code_at;
        if (stepped && n.fault < 0) continue;
        passed++;
        std::string text;
        if (!stepped && n.fault >= 0) text += format("host faults with {}; ", n.fault);
        for (unsigned r = 0; r < 16; r++)
          if (flat.state.gpr[r] != want.gpr[r]) text += format("r{} {:#x}, host {:#x}; ", r, flat.state.gpr[r], want.gpr[r]);
        if ((flat.state.rflags ^ want.rflags) & x::arithmetic_flags)
          text += format("flags {:#x}, host {:#x}; ", flat.state.rflags, want.rflags);
        if (n.fault < 0) {
          for (unsigned v = 0; v < 16; v++)
            if (flat.state.vector[v].lane != want.vector[v].lane) text += format("ymm{}; ", v);
          if (flat.state.mxcsr != want.mxcsr) text += format("mxcsr {:#x}, host {:#x}; ", flat.state.mxcsr, want.mxcsr);
        }
        if (std::memcmp(flat.shadow, box, test::sandbox_bytes) != 0) text += "memory; ";
        if (text.empty()) continue;
        if (failed++ < 12) failures += format("{}: {}\n{}\n", row.name, text, test::hex(code));
        break;
      }
      if (passed)
        passing++;
      else if (silent.size() < 800)
        silent += format("{}/{:02x} ", row.name, row.opcode);
    }
  }
  if (failed) test::failed("E1 and host agree", __FILE__, __LINE__, format("{} rows differ\n{}", failed, failures));
  if (passing * 10 < rows * 9)
    test::failed("nine rows of ten pass", __FILE__, __LINE__, format("{} of {} rows pass; never: {}", passing, rows, silent));
}

TEST(first_tier_passes_every_row_as_the_host_does) { every_row(FirstTier::default_shape()); }
TEST(first_tier_passes_every_row_with_wide_tables) { every_row(TableShape::wide); }
TEST(first_tier_passes_every_row_with_tagged_tables) { every_row(TableShape::tagged); }

TEST(first_tier_goes_on_when_its_cache_is_full) {  // translator.md §13, 17
  Flat flat{1 * MiB};
  for (u32 round = 0; round < 120; round++) {
    for (u16 at = 0; at < 0xff0; at += 16) {
      const u8 bytes[] = {0xb8, static_cast<u8>(round), static_cast<u8>(at), static_cast<u8>(at >> 8), 0, 0xf4};
      std::memcpy(flat.code + at, bytes, sizeof bytes);
    }
    flat.store.invalidate(100, 0, 4096);
    for (u16 at = 0; at < 0xff0; at += 16) {
      flat.run(code_at + at, code_at + at + 5);
      CHECK_EQ(flat.state.gpr[x::rax], u64{round} | u64{at} << 8);
    }
  }
  CHECK(flat.tier->counters().evictions > 8);
}

}  // namespace
}  // namespace vmm::tcg
