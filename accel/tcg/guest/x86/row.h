// One row an instruction, in the notation of the manual's opcode maps (SDM 2D appendix A). The decoder reads the operands'
// encoding from the row, loads sources, calls the emitter, writes the destination back.
#pragma once

#include <array>

#include "accel/tcg/ir/native.h"
#include "src/base/types.h"

#pragma clang diagnostic ignored "-Wreorder-init-list"

namespace vmm::tcg::x86 {

// How an operand is encoded: E modrm.rm (register or memory), G modrm.reg, R modrm.rm as a register only, M as memory only,
// B VEX.vvvv (GPR), Z low bits of the opcode, I immediate, J relative target, O offset without modrm, S segment register,
// C/D control/debug register, X/Y string source/destination, A far pointer, V/H/W/U vector in reg/vvvv/rm/rm-register-only,
// L vector in imm[7:4], P/Q/N MMX in reg/rm/rm-register-only. Size letters: b w d q v (operand size) y (4, or 8 with W) z (operand
// size, at most 4) dq (16) x (16 or 32 by VEX.L) qq (32) ss sd ps pd as memory sizes.
enum class Role : u8 {
  none,
  modrm_rm,
  modrm_reg,
  vvvv,
  opcode_reg,
  fixed,
  imm,
  imm_sx,
  rel,
  moffs,
  string_src,
  string_dst,
  far_ptr,
  is4,
  one
};
enum class File : u8 { none, gpr, segment, control, debug, vector, mmx, x87 };
enum class Size : u8 {
  none,
  b,
  w,
  d,
  q,
  v,
  y,
  z,
  dq,
  x,
  qq,
  p,
  t,
  any,
  native,
  hx,
  fx,
  ex,
  dup,
  db,
  dw
};  // p: far pointer, t: 10 bytes, native: 4 or 8 by mode, hx fx ex: half, a quarter, an eighth of x, dup: 8, or 32 with VEX.L
    // (movddup), db dw: a byte or word in memory, 4 bytes of a register

struct Operand {
  Role role = Role::none;
  File file = File::none;
  Size size = Size::none;
  u8 number = 0;  // fixed: register number
  enum Form : u8 { any, reg_only, mem_only } form = any;
};

#define OPERAND(name, ...) inline constexpr Operand name{__VA_ARGS__};
// clang-format off
OPERAND(Eb, Role::modrm_rm, File::gpr, Size::b)   OPERAND(Ew, Role::modrm_rm, File::gpr, Size::w)
OPERAND(Ed, Role::modrm_rm, File::gpr, Size::d)   OPERAND(Eq, Role::modrm_rm, File::gpr, Size::q)
OPERAND(Ev, Role::modrm_rm, File::gpr, Size::v)   OPERAND(Ey, Role::modrm_rm, File::gpr, Size::y)
OPERAND(Gb, Role::modrm_reg, File::gpr, Size::b)  OPERAND(Gw, Role::modrm_reg, File::gpr, Size::w)
OPERAND(Gd, Role::modrm_reg, File::gpr, Size::d)  OPERAND(Gv, Role::modrm_reg, File::gpr, Size::v)
OPERAND(Gy, Role::modrm_reg, File::gpr, Size::y)  OPERAND(Gz, Role::modrm_reg, File::gpr, Size::z)
OPERAND(By, Role::vvvv, File::gpr, Size::y)
OPERAND(Rd, Role::modrm_rm, File::gpr, Size::d, 0, Operand::reg_only)
OPERAND(Ry, Role::modrm_rm, File::gpr, Size::y, 0, Operand::reg_only)
OPERAND(Rn, Role::modrm_rm, File::gpr, Size::native)  // a register whatever mod says; 8 in 64-bit mode, else 4 (mov cr/dr)
OPERAND(Rv, Role::modrm_rm, File::gpr, Size::v, 0, Operand::reg_only)
OPERAND(Mb, Role::modrm_rm, File::gpr, Size::b, 0, Operand::mem_only)
OPERAND(Mw, Role::modrm_rm, File::gpr, Size::w, 0, Operand::mem_only)
OPERAND(Md, Role::modrm_rm, File::gpr, Size::d, 0, Operand::mem_only)
OPERAND(Mq, Role::modrm_rm, File::gpr, Size::q, 0, Operand::mem_only)
OPERAND(Mv, Role::modrm_rm, File::gpr, Size::v, 0, Operand::mem_only)
OPERAND(My, Role::modrm_rm, File::gpr, Size::y, 0, Operand::mem_only)
OPERAND(Mp, Role::modrm_rm, File::none, Size::p, 0, Operand::mem_only)      // address alone: the emitter reads it
OPERAND(M_, Role::modrm_rm, File::none, Size::any, 0, Operand::mem_only)    // address alone
OPERAND(Mt, Role::modrm_rm, File::none, Size::t, 0, Operand::mem_only)      // 80-bit
OPERAND(Zb, Role::opcode_reg, File::gpr, Size::b) OPERAND(Zv, Role::opcode_reg, File::gpr, Size::v)
OPERAND(Zy, Role::opcode_reg, File::gpr, Size::y)
OPERAND(AL, Role::fixed, File::gpr, Size::b, 0)   OPERAND(CL, Role::fixed, File::gpr, Size::b, 1)
OPERAND(AX, Role::fixed, File::gpr, Size::w, 0)   OPERAND(DX, Role::fixed, File::gpr, Size::w, 2)
OPERAND(rAX, Role::fixed, File::gpr, Size::v, 0)  OPERAND(eAX, Role::fixed, File::gpr, Size::z, 0)
OPERAND(Ib, Role::imm, File::none, Size::b)       OPERAND(Iw, Role::imm, File::none, Size::w)
OPERAND(Iv, Role::imm, File::none, Size::v)       OPERAND(Iz, Role::imm_sx, File::none, Size::z)
OPERAND(Ibs, Role::imm_sx, File::none, Size::b)   OPERAND(one_, Role::one, File::none, Size::b)
OPERAND(Jb, Role::rel, File::none, Size::b)       OPERAND(Jz, Role::rel, File::none, Size::z)
OPERAND(Ob, Role::moffs, File::gpr, Size::b)      OPERAND(Ov, Role::moffs, File::gpr, Size::v)
OPERAND(Sw, Role::modrm_reg, File::segment, Size::w)
OPERAND(Cn, Role::modrm_reg, File::control, Size::native) OPERAND(Dn, Role::modrm_reg, File::debug, Size::native)
OPERAND(Xb, Role::string_src, File::none, Size::b) OPERAND(Xv, Role::string_src, File::none, Size::v) OPERAND(Xz, Role::string_src, File::none, Size::z)
OPERAND(Yb, Role::string_dst, File::none, Size::b) OPERAND(Yv, Role::string_dst, File::none, Size::v) OPERAND(Yz, Role::string_dst, File::none, Size::z)
OPERAND(Ap, Role::far_ptr, File::none, Size::p)
// vectors: the size is that of a memory operand
OPERAND(Vx, Role::modrm_reg, File::vector, Size::x)   OPERAND(Vdq, Role::modrm_reg, File::vector, Size::dq)
OPERAND(Vqq, Role::modrm_reg, File::vector, Size::qq) OPERAND(Vd, Role::modrm_reg, File::vector, Size::d)
OPERAND(Vq, Role::modrm_reg, File::vector, Size::q)
OPERAND(Hx, Role::vvvv, File::vector, Size::x)        OPERAND(Hdq, Role::vvvv, File::vector, Size::dq)
OPERAND(Hqq, Role::vvvv, File::vector, Size::qq)
OPERAND(Wx, Role::modrm_rm, File::vector, Size::x)    OPERAND(Wdq, Role::modrm_rm, File::vector, Size::dq)
OPERAND(Wqq, Role::modrm_rm, File::vector, Size::qq)  OPERAND(Wq, Role::modrm_rm, File::vector, Size::q)
OPERAND(Wd, Role::modrm_rm, File::vector, Size::d)    OPERAND(Ww, Role::modrm_rm, File::vector, Size::w)
OPERAND(Wb, Role::modrm_rm, File::vector, Size::b)    OPERAND(Whx, Role::modrm_rm, File::vector, Size::hx)
OPERAND(Ux, Role::modrm_rm, File::vector, Size::x, 0, Operand::reg_only)
OPERAND(Udq, Role::modrm_rm, File::vector, Size::dq, 0, Operand::reg_only)
OPERAND(Uq, Role::modrm_rm, File::vector, Size::q, 0, Operand::reg_only)
OPERAND(Mx, Role::modrm_rm, File::none, Size::x, 0, Operand::mem_only)
OPERAND(Mdq, Role::modrm_rm, File::none, Size::dq, 0, Operand::mem_only)
OPERAND(Mqq, Role::modrm_rm, File::none, Size::qq, 0, Operand::mem_only)
OPERAND(Lx, Role::is4, File::vector, Size::x)
OPERAND(Pq, Role::modrm_reg, File::mmx, Size::q)  OPERAND(Qq, Role::modrm_rm, File::mmx, Size::q)
OPERAND(Qd, Role::modrm_rm, File::mmx, Size::d)   OPERAND(Nq, Role::modrm_rm, File::mmx, Size::q, 0, Operand::reg_only)
OPERAND(ST0, Role::fixed, File::x87, Size::t, 0)  OPERAND(STi, Role::modrm_rm, File::x87, Size::t, 0, Operand::reg_only)
// clang-format on
#undef OPERAND

    // Guest CPU features that rows ask for; Cpu::features has a bit for each that the model offers.
    enum class Feature : u8 {
      none,
      fpu,
      cx8,
      cmov,
      mmx,
      sse,
      sse2,
      sse3,
      ssse3,
      sse4_1,
      sse4_2,
      sse4a,
      popcnt,
      abm,
      bmi1,
      bmi2,
      adx,
      movbe,
      aes,
      pclmul,
      sha,
      avx,
      avx2,
      fma,
      f16c,
      vaes,
      vpclmul,
      gfni,
      rdrand,
      rdseed,
      rdpid,
      rdtscp,
      cx16,
      lahf64,
      syscall,
      sep,
      fxsr,
      xsave,
      xsaveopt,
      xsavec,
      xsaves,
      fsgsbase,
      smap,
      invpcid,
      clflush,
      clflushopt,
      clwb,
      clzero,
      monitor,
      prefetchw,
      msr,
      tsc,
      rtm,
      pku,
      mmxext,
      nopl,
      tbm,
      fma4,
      xop,
      serialize,
      wbnoinvd,
      svm,
      smep,
      movdiri,
      movdir64b,
      waitpkg,
      count
    };

enum class Mode : u8 { any, only64, no64 };
enum class Mod : u8 { any, memory, reg };
enum class Ends : u8 { no, next, set };  // next: leaves after it, ip = the next instruction; set: a helper has written ip
enum class Dst : u8 { read_write, write, read };
// Mandatory prefix. any: 66 is operand size, F2/F3 are ignored (or mean `rep`). none: no 66, F2, F3 allowed. F2 and F3 go before
// 66. no_rep: F2 and F3 not allowed, 66 is operand size. With f3 and f2, 66 is operand size.
enum class Prefix : u8 { any, none, p66, f3, f2, no_rep };
inline constexpr Prefix p_none = Prefix::none, p_66 = Prefix::p66, p_f3 = Prefix::f3, p_f2 = Prefix::f2, p_no_rep = Prefix::no_rep;

struct Traits {
  Feature needs = Feature::none;
  Prefix prefix = Prefix::any;
  i8 reg = -1;  // opcode extension: modrm.reg must equal it
  i8 rm = -1;   // with mod = 3: modrm.rm must equal it
  Mod mod = Mod::any;
  Mode mode = Mode::any;
  i8 w = -1, l = -1;  // REX.W / VEX.W and VEX.L must equal it
  bool vex = false;
  bool modrm = false;      // has a modrm byte though no operand names it
  bool lock = false;       // LOCK allowed (with a memory destination)
  bool pass = false;       // an x86-64 host executes it itself
  bool fp = false;         // reads or sets MXCSR / x87 state
  bool undefined = false;  // #UD: in the map so that no other row takes its place
  bool d64 = false;        // operand size 64 by default in 64-bit mode (push, pop, near branches); 66 gives 16
  bool f64 = false;        // operand size forced to 64 there (66 ignored)
  bool aligned = false;    // vector memory operand must be aligned (#GP)
  Dst dst = Dst::read_write;
  Ends ends = Ends::no;
  ir::NativeKind kind = ir::NativeKind::plain;
  u16 flags_in = 0, flags_out = 0;  // cc bits read and written (undefined ones count as written)
  u32 reads = 0, writes = 0;        // implicit GPRs, bit = number
  bool rep = false;                 // F3/F2 repeat it (string)
  i8 tag = 0;                       // free for the emitter: variant number
  bool own = false;                 // the emitter addresses and loads its memory operand itself
};
inline constexpr u16 fl_c = 1, fl_p = 4, fl_z = 0x40, fl_s = 0x80, fl_o = 0x800, fl_all = 0x8d5, fl_not_c = 0x8d4, cc_zero_bit = 0x40;
using Kind = ir::NativeKind;

class Emitter;
struct Insn;
struct Operands;
using Emit = void (*)(Emitter&, const Insn&, Operands&);

struct Row {
  u8 opcode = 0;
  const char* name = nullptr;
  std::array<Operand, 4> operands{};
  Emit emit = nullptr;  // null with .pass: interpreted by a native stub
  Traits t{};
};

enum class Map : u8 { one, two, m38, m3a };

}  // namespace vmm::tcg::x86
