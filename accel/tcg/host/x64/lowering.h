// The working state of one lowering, shared by lower.cpp (blocks, flow, stubs) and pass.cpp (instructions).
#pragma once

#include "accel/tcg/host/x64/groups.h"
#include "accel/tcg/host/x64/lower.h"

namespace vmm::tcg::x64 {

class Lowering {
 public:
  Lowering(const ir::Block& block, std::span<u8> space, const LowerOptions& options, Lowered& result, ArenaVector<bool>& barrier)
      : block_(block),
        options_(options),
        result_(result),
        buffer_(space),
        out_(buffer_),
        code_(buffer_),
        direct_(out_, options_.access),
        wide_(out_, options_.access),
        tagged_(out_, options_.access),
        barrier_(barrier) {}
  bool run();
  // A new barrier came to light: run anew.
  bool again() const { return again_; }

 private:
  // How an operand register of the guest reaches the host instruction.
  struct Operand {
    u8 host = 0;
  };
  struct Scratches {
    struct Use {
      u8 guest;
      Reg host;
      bool read, written;
    };
    Use use[2];
    unsigned count = 0;
    Reg free[2];
    unsigned free_count = 0;
  };

  // pass.cpp: false = cannot; what was emitted is taken back by the caller.
  bool plain(const ir::Native& n);
  bool plain_high_byte(const ir::Native& n);
  bool load_address(const ir::Native& n);
  bool push(const ir::Native& n);
  bool pop(const ir::Native& n);
  bool leave(const ir::Native& n);
  bool assign(Scratches& s, const ir::NativeReg& r, bool must_read, u8& host);
  void encode(const ir::Native& n, u8 reg, u8 vvvv, const Rm& rm, bool rex_needed);
  void load_spills(const Scratches& s);
  void store_spills(const Scratches& s);

  // lower.cpp
  bool is_plain_loop() const;
  void find_labels();
  void one(const ir::Native& n);
  void twins();
  bool wants_own_twin(u16 group) const;
  void own_twins();
  void own_twin(u16 group);
  bool instruction(const ir::Native& n);
  void interpret(const ir::Native& n);
  void interpret_here(const ir::Native& n, u64 thunk);
  bool selector(const ir::Native& n);
  bool in_place(const ir::Native& n);
  bool bit_string(const ir::Native& n);
  bool push_flags(const ir::Native& n);
  bool allow_interrupts(const ir::Native& n);
  bool x87(const ir::Native& n);
  void record_x87(const ir::Native& n);
  unsigned x87_bytes(const ir::Native& n) const;
  void selector_to(usize slot, unsigned segment);
  void push_return(const ir::Native& n);
  bool call(const ir::Native& n);
  bool call_indirect(const ir::Native& n);
  bool ret(const ir::Native& n);
  bool jump_indirect(const ir::Native& n);
  bool branch(const ir::Native& n);
  bool loop(const ir::Native& n);
  bool load_target(const ir::Native& n);  // rm to scratch2
  void note_branch(const ir::Native& n);
  bool refuse_target();
  void go_to(i32 target, i32 from);  // direct, polls if backward
  void ip_to_scratch2(i32 offset);
  void poll(i32 resume);  // leaves with the instruction pointer at `resume`
  void poll_islands();
  void keep_both() { keeps_scratch_ = keeps_scratch2_ = true; }
  void forget_windows() { cached_ = cached2_ = GroupPlan::none, spill2_ = ir::no_reg; }
  void resume_after(u16 instruction);  // a jump behind it, from code that has used the scratches
  usize label_of(i32 target) const;
  void dispatch();  // on scratch2
  void dispatch_bare();
  bool in_page(i32 offset) const { return offset >= 0 && offset < 4096 && !block_.straddles; }
  void edge_jump(i32 target);
  unsigned edge_padding(unsigned opcode_bytes) const;
  static bool register_only(const ir::Native& n);
  void poll_early();
  void edge_branch(Condition c, i32 target);
  Address stack_address(i64 disp) const { return {.base = guest_stack_pointer, .disp = disp, .width = code64() ? u8{8} : u8{4}}; }
  void move_stack(i64 delta);
  unsigned stack_width() const { return code64() ? 8 : 4; }
  bool code64() const { return options_.access.code64; }

  Mem check(const Address& a, unsigned size, bool write);
  Mem member(const Address& a, const GroupPlan::Access& planned);
  bool guesses(u16 instruction) const { return options_.guess_page && !in_twin_ && plan_.chained[instruction]; }
  u32 guess_slot(bool grouped) const;
  void guess_stub(const MissSite& site);
  void may_fault() { faults_.push_back({static_cast<u32>(out_.here()), current_}); }
  void islands(bool fallthrough);  // gives every waiting jrcxz its island
  void islands_before(unsigned bytes_ahead);
  void stubs();
  void jump_to_address(u64 address) { jump_at(out_.jmp(), address); }
  void call_address(u64 address) { jump_at(out_.call(), address); }
  void jump_at(usize at, u64 address) { buffer_.patch32(at, static_cast<u32>(address - (options_.base + at + 4))); }

  struct PollSite {
    usize at;
    i32 target;
  };
  struct Fault {
    u32 pc;
    u16 instruction;
  };
  struct BackSite {
    usize at;  // of a rel32
    i32 target;
  };
  struct PendingEdge {
    usize at;
    i32 target;
  };

  struct Fixup {
    usize at;  // of a rel32
    u16 label;
  };

  const ir::Block& block_;
  const LowerOptions& options_;
  Lowered& result_;
  Buffer buffer_;
  FlagFree out_;
  Assembler code_;  // for re-encoded guest instructions only
  DirectAccess direct_;
  WideAccess wide_;
  TaggedAccess tagged_;
  AccessEmitter& access_ = options_.shape == TableShape::tagged ? static_cast<AccessEmitter&>(tagged_)
                           : options_.shape == TableShape::wide ? static_cast<AccessEmitter&>(wide_)
                                                                : direct_;
  ArenaVector<MissSite> sites_;
  usize first_waiting_ = 0;  // sites_ from here on have no island yet
  ArenaVector<PollSite> polls_, waiting_polls_;
  ArenaVector<Fault> faults_;
  ArenaVector<PendingEdge> edges_;
  ArenaVector<BackSite> backs_;  // branches backward out of the middle: they poll in a stub
  ArenaVector<u32> next_;        // host offset after each instruction
  u16 current_ = 0;
  bool ended_ = false;
  ArenaVector<const ir::Native*> natives_;
  // Forward branches inside the block go straight to the instruction.
  ArenaVector<bool> label_;
  ArenaVector<u32> label_at_;
  ArenaVector<Fixup> fixups_;
  // Groups. Where one is live, slow paths go on in a second, ungrouped emission of its region.
  ArenaVector<bool>& barrier_;
  GroupPlan plan_;
  bool in_twin_ = false, again_ = false;
  unsigned nth_access_ = 0;
  ArenaVector<u32> twin_;  // host offset of an instruction's twin
  // By group: a second emission of its stretch in which it alone is not grouped, for extents in two pages; 0: none. `own_` is the group
  // that is being emitted so; `held_` has what windows the instruction after each one finds in the scratch registers.
  ArenaVector<u32> own_twin_;
  u16 own_ = GroupPlan::none;
  ArenaVector<std::array<u16, 2>> held_;
  // The groups whose windows are in `scratch` and `scratch2`, and whether the instruction being emitted leaves them as its accesses left
  // them. `second_free_`: it has no other use for `scratch2`.
  u16 cached_ = GroupPlan::none, cached2_ = GroupPlan::none;
  bool keeps_scratch_ = false, keeps_scratch2_ = false, second_free_ = false, second_next_ = false;
  // The spilled register whose value scratch2 has, now and after each instruction, and what the one being emitted makes of it.
  u8 spill2_ = ir::no_reg, spill2_made_ = ir::no_reg;
  ArenaVector<u8> spill2_after_;
  bool x87_live_ = false;                        // surely, at this point of the block
  ArenaVector<bool> x87_live_after_;             // by instruction
  bool x87_page_known_ = false;                  // the frame holds this block's page as that of the last x87 instruction
  usize movable_ = 0, movable_end_ = ~usize{0};  // the code of the last instruction that may be moved up
  u16 polled_at_ = 0xffff;                       // the branch whose poll stands before its comparison
  bool failed_ = false;
};

}  // namespace vmm::tcg::x64
