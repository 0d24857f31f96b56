// Checked guest memory accesses: the code before an instruction's own access that turns guest addresses into host addresses
// (translator.md §4.1). Flag-free: it sees no other encoder.
#pragma once

#include <vector>

#include "accel/tcg/host/x64/pins.h"
#include "accel/tcg/ir/native.h"

namespace vmm::tcg::x64 {

// A guest linear address as generated code computes it. Registers are guest numbers.
struct Address {
  u8 base = ir::no_reg, index = ir::no_reg, scale = 0;
  i64 disp = 0;
  bool ip_relative = false;
  u8 segment = ir::no_reg;  // adds the base of this segment
  u8 width = 8;             // bytes of the effective address
};
Address address_of(const ir::Native& n);

struct AccessLayout {
  u32 seg_base = 0;    // offset in the frame of the array of segment bases
  bool code64 = true;  // else linear addresses wrap at 32 bits
};

// One check that may miss. The cold stub puts the address into the second scratch, asks for the slot to be filled, and resumes.
struct MissSite {
  Address address;
  u16 size = 0;
  bool write = false;
  bool group = false;     // the extent of a group: what cannot be filled goes to the ungrouped twin
  u16 own_twin = 0xffff;  // the group that has a twin of its own for extents in two pages
  bool direct = false;    // else: built in scratch2, or kept in saved[0]
  bool kept = false;
  usize jrcxz_at = 0;  // its displacement byte
  usize resume = 0;    // code offset after the jrcxz
  usize island = 0;    // displacement of the island's jmp, once there is one
  bool has_island = false;
  u32 guess = 0;        // frame offset of the addend that was guessed; 0: none
  u16 instruction = 0;  // index in the block
};

// Emits the check; afterwards `scratch` holds the addend and the result tells how to reach the operand. `size` 1 to 64.
// It may use both scratch registers and saved[0].
class AccessEmitter {
 public:
  AccessEmitter(FlagFree& out, const AccessLayout& layout) : out_(out), layout_(layout) {}
  virtual ~AccessEmitter() = default;

  // The operand after a check. May add instructions.
  Mem check(const Address& address, unsigned size, bool write, MissSite& site);
  // The same with the linear address in scratch2 already.
  Mem check_built(unsigned size, bool write, MissSite& site);
  // The same for a whole group that begins at `low`; the result reaches `offset` bytes into it. Afterwards `scratch` holds what the
  // group's window keeps: the addend if `by_addend`, else the host address of the first byte.
  Mem check_group(const Address& low, unsigned extent, bool write, i64 offset, bool by_addend, MissSite& site);
  // Another member, the window being in `window`.
  Mem member(const Address& address, i64 offset, bool by_addend, Reg window);
  // The address in scratch2, for miss stubs.
  void recompute(const MissSite& site);
  // From the address in scratch2: is it of one page with its last byte, `ahead` further on? Then `scratch` is 0.
  void in_one_page(i32 ahead);
  // The next check may guess its addend: the word of the frame that has the last one, 0: none. Only where it reads through a direct table.
  void guess(u32 frame_offset) { guess_ = frame_offset; }
  // scratch2 holds this spilled register where the next check begins; no_reg: none.
  void hold(u8 spilled_register) { held_ = spilled_register; }
  // Puts an effective address (no segment, cut to its width) into `to`; for lea.
  void effective(const Address& address, Reg to, bool wide);
  // The linear address in scratch2; may use scratch. True: scratch was used.
  bool build(const Address& address);

  static bool fits(i64 v) { return v == static_cast<i32>(v); }

 protected:
  // From the first byte's address (scratch2, or the direct operand) to the addend in `scratch`, jrcxz included.
  // q in `scratch`; scratch2 is used up.
  void slot_number(Reg first, i32 disp, bool first_is_scratch2, unsigned size);
  // The page number of an address, and the 32 or 64 bits of a sum of two: what the table is indexed by.
  virtual void page_number(Reg to, Reg from) { out_.pext(to, from, in_frame(offsetof(FrameHead, ctx_mask))); }
  virtual void add_pages(const Mem& sum) { out_.lea(scratch, sum); }
  virtual void look_up(Reg first, i32 disp, bool first_is_scratch2, unsigned size, bool write, MissSite& site) = 0;
  FlagFree& out_;
  const AccessLayout& layout_;
  u32 guess_ = 0;
  u8 held_ = ir::no_reg;

 private:
  bool is_direct(const Address& a, unsigned size) const;
};

// The sparse directly indexed table: forms P1 and P2.
class WideAccess : public AccessEmitter {
 public:
  using AccessEmitter::AccessEmitter;

 private:
  void look_up(Reg first, i32 disp, bool first_is_scratch2, unsigned size, bool write, MissSite& site) override;
};

// Page numbers of 31 bits (TableShape::direct): a rotation is cheaper than pext, and needs no mask. The bits of the offset that it brings
// to the top go with the upper half of the sum.
class DirectAccess final : public WideAccess {
 public:
  using WideAccess::WideAccess;

 private:
  void page_number(Reg to, Reg from) override { out_.rorx(to, from, 12); }
  void add_pages(const Mem& sum) override { out_.lea32(scratch, sum); }
};

// The small tagged table: hosts or tools that leave no room for direct ones. An entry is found by the low bits of q and holds −q, so
// that the comparison is an addition and a jrcxz. Slower, since both halves of the entry are loaded one after the other.
class TaggedAccess final : public AccessEmitter {
 public:
  using AccessEmitter::AccessEmitter;

 private:
  void look_up(Reg first, i32 disp, bool first_is_scratch2, unsigned size, bool write, MissSite& site) override;
};

}  // namespace vmm::tcg::x64
