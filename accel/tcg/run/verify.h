// `verify=on`: what the interpreter makes of a block before E1 runs it, on the same memory, taken back afterwards; then the
// comparison (translator.md §12). For one vCPU: another one's stores in between would look like a difference.
#pragma once

#include <string>
#include <vector>

#include "accel/tcg/guest/guest_ops.h"
#include "src/x86/state.h"

namespace vmm::tcg {

class Verifier {
 public:
  Verifier(GuestCpu& cpu, vmm::x86::State& state) : cpu_(cpu), state_(state) {}
  // Interprets the block, notes the outcome, restores state and memory. False: it met a device, code or a fault of an access, so that
  // nothing can be told.
  bool predict(const ir::Block& block);
  // After E1 ran the same block: the differences as text; empty: none.
  std::string compare() const;

 private:
  struct Store {
    u8* host;
    unsigned size;
    u8 before[64], after[64];
  };
  static bool read(GuestCpu& g, u64 address, unsigned size, u16 access, void* to);
  static bool write(GuestCpu& g, u64 address, unsigned size, u16 access, const void* from);
  static bool rmw(GuestCpu& g, u64 address, unsigned size, u16 access, ir::RmwKind kind, u64 operand, u64 expected, u64& old);
  bool note(u64 address, unsigned size, bool write);
  bool give_up() {
    told_ = false;
    return cpu_.fault = true, false;
  }

  GuestCpu& cpu_;
  vmm::x86::State& state_;
  const MemoryOps* real_ = nullptr;
  bool told_ = true, fault_ = false;
  std::vector<Store> stores_;
  vmm::x86::State start_, want_;
  std::unique_ptr<SoftTlb> no_tlb_ = std::make_unique<SoftTlb>();
  static thread_local Verifier* active;
};

// Host code as text, by capstone.
std::string print_host_code(u64 address, std::span<const u8> bytes);

}  // namespace vmm::tcg
