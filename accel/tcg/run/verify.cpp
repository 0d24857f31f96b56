// See verify.h.
#include "accel/tcg/run/verify.h"

#include <cstring>

#include "accel/tcg/host/interp.h"
#include "accel/tcg/mem/tables.h"
#include "src/base/format.h"
#include "src/x86/disassemble.h"

namespace vmm::tcg {

thread_local Verifier* Verifier::active = nullptr;

// RAM that may be accessed without asking; the bytes of a store are kept.
bool Verifier::note(u64 address, unsigned size, bool write) {
  for (unsigned done = 0; done < size;) {
    const unsigned part = std::min<unsigned>(size - done, page_bytes - ((address + done) & page_offset_mask));
    PageView view;
    if (!real_->probe(cpu_, address + done, write ? ir::Access::write : ir::Access::data, view) || !view.host) return false;
    if (write && !view.writable) return false;
    if (write) {
      Store s{.host = view.host + ((address + done) & page_offset_mask), .size = part};
      std::memcpy(s.before, s.host, part);
      stores_.push_back(s);
    }
    done += part;
  }
  return true;
}

bool Verifier::read(GuestCpu& g, u64 address, unsigned size, u16 access, void* to) {
  Verifier& v = *active;
  if (size > 64 || access & ir::Access::implicit || !v.note(address, size, false)) return v.give_up();
  return v.real_->read(g, address, size, access, to);
}
bool Verifier::write(GuestCpu& g, u64 address, unsigned size, u16 access, const void* from) {
  Verifier& v = *active;
  if (size > 64 || access & ir::Access::implicit || !v.note(address, size, true)) return v.give_up();
  return v.real_->write(g, address, size, access, from);
}
bool Verifier::rmw(GuestCpu& g, u64 address, unsigned size, u16 access, ir::RmwKind kind, u64 operand, u64 expected, u64& old) {
  Verifier& v = *active;
  if (!v.note(address, size, true)) return v.give_up();
  return v.real_->rmw(g, address, size, access, kind, operand, expected, old);
}

bool Verifier::predict(const ir::Block& block) {
  static constexpr MemoryOps noting{.read = read, .write = write, .rmw = rmw};
  start_ = state_;
  stores_.clear();
  told_ = true;
  real_ = cpu_.memory;
  MemoryOps ops = noting;
  ops.probe = real_->probe;
  SoftTlb* const tlb = cpu_.tlb;
  active = this;
  cpu_.memory = &ops;
  cpu_.tlb = no_tlb_.get();  // nothing ever fills it: each access comes by the functions above
  interpret(cpu_, block);
  cpu_.memory = real_;
  cpu_.tlb = tlb;
  active = nullptr;
  fault_ = cpu_.fault;
  want_ = state_;
  for (Store& s : stores_) std::memcpy(s.after, s.host, s.size);
  for (usize i = stores_.size(); i-- > 0;) std::memcpy(stores_[i].host, stores_[i].before, stores_[i].size);
  state_ = start_;
  cpu_.fault = cpu_.leave = false;
  return told_;
}

std::string Verifier::compare() const {
  std::string out;
  const auto differ = [&](const auto& what, u64 before, u64 want, u64 got) {
    if (want != got) out += format("  {:<8} was {:#x}, interpreter {:#x}, E1 {:#x}\n", what, before, want, got);
  };
  static constexpr const char* names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                          "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
  for (unsigned i = 0; i < 16; i++) differ(names[i], start_.gpr[i], want_.gpr[i], state_.gpr[i]);
  differ("rip", start_.rip, want_.rip, state_.rip);
  differ("flags", start_.rflags, want_.rflags, state_.rflags);
  differ("mxcsr", start_.mxcsr, want_.mxcsr, state_.mxcsr);
  differ("fault", 0, fault_, cpu_.fault);
  for (unsigned v = 0; v < 16; v++)
    for (unsigned i = 0; i < 4; i++)
      if (want_.vector[v].lane[i] != state_.vector[v].lane[i])  // the name is made only then: this runs for each block
        differ(format("ymm{}[{}]", v, i), start_.vector[v].lane[i], want_.vector[v].lane[i], state_.vector[v].lane[i]);
  differ("fcw", start_.x87.fcw, want_.x87.fcw, state_.x87.fcw);
  differ("fsw", start_.x87.fsw, want_.x87.fsw, state_.x87.fsw);
  differ("ftw", start_.x87.ftw, want_.x87.ftw, state_.x87.ftw);
  differ("fop", start_.x87.fop, want_.x87.fop, state_.x87.fop);
  differ("fip", start_.x87.fip, want_.x87.fip, state_.x87.fip);
  differ("fdp", start_.x87.fdp, want_.x87.fdp, state_.x87.fdp);
  for (unsigned i = 0; i < 8; i++)
    if (std::memcmp(want_.x87.st[i].data(), state_.x87.st[i].data(), 10) != 0) out += format("  st{} differs\n", i);
  for (const Store& s : stores_)
    if (std::memcmp(s.host, s.after, s.size) != 0)
      for (unsigned i = 0; i < s.size; i++)
        differ(format("byte {} of a store of {} at host {}", i, s.size, static_cast<void*>(s.host)), s.before[i], s.after[i], s.host[i]);
  return out;
}

std::string print_host_code(u64 address, std::span<const u8> bytes) {
  std::string out;
  for (const auto& line : vmm::x86::disassemble(bytes, address, 64, vmm::x86::CodeSyntax::intel))
    out += format("{:#x}  {} {}\n", line.address, line.mnemonic, line.operands);
  return out;
}

}  // namespace vmm::tcg
