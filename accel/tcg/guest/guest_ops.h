// The seam between the translator and an instruction set: eight functions and what a vCPU looks like to code that knows no guest.
#pragma once

#include <atomic>
#include <span>
#include <string>

#include "accel/tcg/ir/block.h"
#include "accel/tcg/ir/builder.h"
#include "accel/tcg/mem/frame.h"
#include "src/base/types.h"

namespace vmm::tcg {

// One line of the interpreter's own small TLB. Tags are page addresses; `none` never equals one. Host = guest + addend.
struct SoftLine {
  static constexpr u64 none = 1;
  u64 read = none, write = none;
  i64 addend = 0;
  u64 unused = 0;
};
// Direct-mapped by page number. The guest (walk.cpp) fills and flushes it; one for each kind of access rights.
struct SoftTlb {
  static constexpr unsigned lines = 1024;
  SoftLine line[lines];
  static constexpr unsigned index(u64 address) { return static_cast<unsigned>(address >> 12) & (lines - 1); }
  void flush() {
    for (SoftLine& l : line) l = SoftLine{};
  }
};

struct GuestCpu;
// A helper: arguments by value; may raise a fault (GuestCpu::fault = true) before it has changed any state. May set cc_out.
using Helper = u64 (*)(GuestCpu&, u64 a, u64 b, u64 c);

// One page as an engine with address tables of its own sees it (MemoryOps::probe).
struct PageView {
  u8* host = nullptr;       // of the page's first byte
  u64 page = ~u64{0};       // rpn
  bool writable = false;    // stores need not be asked for: D is set, no code, no watchpoint, not clean under a dirty log
  bool global = false;      // stays over a flush that keeps global pages
  u64 mapped_bytes = 4096;  // size of the guest's mapping that it lies in
};

// What an engine keeps that goes stale with the guest's mappings. The guest's walk code calls these beside flushing the SoftTlbs.
struct AddressCaches {
  virtual ~AddressCaches() = default;
  virtual void flush(bool keep_global) = 0;       // in all address spaces: PGE toggle, INVPCID, changed rights
  virtual void invalidate_page(u64 address) = 0;  // invlpg, and a large page that holds it
  // Address spaces with names, of which several may be kept. Entering one drops what it had unless `keep`.
  virtual void enter_space(u32 name, bool keep) { flush(true); }
  virtual void flush_space(u32 name) {}                      // one that is not the current one
  virtual void invalidate_page_of(u32 name, u64 address) {}  // in one that is not the current one
  virtual void flush_writes() = 0;                           // write rights only: CR0.WP, dirty log
  virtual void drop_everything() = 0;                        // topology, A20, SMM
};

// Slow memory access: address translation, rights, devices, page-crossing. False: a fault is pending, nothing has changed.
struct MemoryOps {
  bool (*read)(GuestCpu&, u64 address, unsigned size, u16 access, void* to);
  bool (*write)(GuestCpu&, u64 address, unsigned size, u16 access, const void* from);
  // Atomic read-modify-write of 1, 2, 4 or 8 bytes; `old` receives what was there.
  bool (*rmw)(GuestCpu&, u64 address, unsigned size, u16 access, ir::RmwKind kind, u64 operand, u64 expected, u64& old);
  // The page that holds `address`, for an access as the running code makes it; A (and for a write D) bits are set as by that
  // access. False: fault, device, watchpoint…: the slow way must be gone. Raises nothing.
  bool (*probe)(GuestCpu&, u64 address, u16 access, PageView& view) = nullptr;
};

// The common head of every guest's CPU.
struct GuestCpu {
  u8* state_base = nullptr;  // StateSlot offsets count from here
  u64* ip = nullptr;         // the architectural instruction pointer, valid when no block runs
  u64* cc = nullptr;         // word that holds the arithmetic flags in `cc` layout among other bits
  SoftTlb* tlb = nullptr;    // for current rights; never null
  const MemoryOps* memory = nullptr;
  const Helper* helpers = nullptr;
  AddressCaches* caches = nullptr;  // may be null
  u64 ip_page = 0;                  // ip − offset in page, of the running block
  u64 next_ip = 0;                  // ip of the next instruction, after sync_ip
  u64 cc_out = 0;                   // second result of a helper
  bool fault = false;               // an exception is pending; the details are the guest's
  bool leave = false;               // a helper asks: leave the block after this instruction
  PollWord poll;                    // 0 = leave generated code
  u64 instructions = 0;             // executed by the interpreter
};

// Where code is. `bytes` begins at the instruction pointer and ends with its page; `page` is the RAM page number (rpn), or
// `no_page` if the code must not be kept.
struct Code {
  static constexpr u64 no_page = ~u64{0};
  std::span<const u8> bytes;
  u64 page = no_page;
  u16 offset = 0;
};

enum class Form : u8 { portable, native };
enum class Translated : u8 { ok, more };  // more: the first instruction goes on in the next page; call again with at least 15 bytes

struct GuestOps {
  const char* name;
  // Translate ip for execution. `next`: the page after the one that ip is in. False: fault pending.
  bool (*fetch)(GuestCpu&, bool next, Code& code);
  u64 (*key)(const GuestCpu&);
  // At most `limit` instructions from `bytes`, the first of which lies at `offset` of its page. Bytes beyond the page may be
  // given for the first instruction only.
  Translated (*translate)(GuestCpu&, u64 key, std::span<const u8> bytes, u16 offset, Form form, unsigned limit, ir::Block& block);
  void (*deliver)(GuestCpu&);  // the pending fault, or the interrupt that the guest would take now
  bool (*leave)(GuestCpu&);    // between blocks: requests, interrupts, activity. False: the vCPU stops running
  bool (*walk)(GuestCpu&, u64 address, u16 access, u64& physical);  // for debuggers: no side effects
  std::string (*print)(u64 key, std::span<const u8> bytes, u64 address);
  std::span<const ir::StateSlot> (*states)();
};

}  // namespace vmm::tcg
