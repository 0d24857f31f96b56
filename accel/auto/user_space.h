// The page tables under which KVM runs a guest's program: what the guest's own tables say of user pages, entered when the program faults
// there, as a TLB is filled. Each entry is looked at again before the program goes on: an entry that the guest has changed, a right to
// write a page that holds translated code or is logged, a right to execute a page that was stored to, go.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

#include "accel/auto/scan.h"
#include "accel/auto/user_machine.h"
#include "accel/tcg/guest/x86/system.h"
#include "accel/tcg/run/lookup.h"

namespace vmm::both {

// Pages for tables, in the CPU's private memory. The kernel keeps shadows of tables, and does not see our stores: an entry that was there
// is changed by making its table anew at another place. When all places are used, the memory is taken away and given again.
class TablePages {
 public:
  static constexpr u64 bytes = 4096;
  TablePages(u8* host, u64 physical, u64 count) : host_(host), physical_(physical), count_(count) {}
  // Zeroed. 0: none is left.
  u64 take();
  u64* at(u64 physical) const { return reinterpret_cast<u64*>(host_ + (physical - physical_)); }
  void reset() { used_ = 0; }

 private:
  u8* host_;
  u64 physical_, count_, used_ = 0;
};

class UserSpace {
 public:
  using DropWrites = void (*)(void* self, u64 page);
  // `kernel`: the entry of the highest table for the upper half. `renew`: takes the pages' memory away and gives it again.
  UserSpace(tcg::x86::Cpu& cpu, tcg::BlockStore& store, UserMachine& machine, TablePages pages, u64 kernel, std::function<bool()> renew,
            DropWrites drop, void* self)
      : cpu_(cpu), store_(store), machine_(machine), pages_(pages), kernel_(kernel), renew_(std::move(renew)), drop_(drop), self_(self) {}

  // For the address space of State, before each entry. 0: not now; else CR3.
  u64 refresh();
  // The program met a fault here. True: it is mended. False: the guest's business, a device's, or the translator's.
  bool fill(u64 address, u32 error_code);
  // May the program read the time stamp counter? It must fault then: the guest's is another.
  bool counter_read() const { return now_ && now_->counter; }
  // The last fill() was refused because of the code there.
  bool refused() const { return refused_now_; }
  u64 fills() const { return fills_; }
  u64 rebuilt() const { return rebuilt_; }
  u64 refused_code() const { return refused_code_; }

 private:
  // 2 MiB of addresses.
  struct Leaf {
    u64 entry = 0;                   // the guest's, of its second level
    bool dirty = false;              // a large page's
    bool write = false, nx = false;  // by all levels above the last
    u64 table = 0;
    std::array<u64, 8> open{};  // pages whose last instruction may go on in the next one
    u64 guest[512];
    memory::PageNumber page[512];
  };
  struct Space {
    u64 cr3 = ~u64{0}, top = 0, used = 0;
    bool counter = false;  // there is code that reads the counter
    std::unordered_map<u64, std::unique_ptr<Leaf>> leaves;
  };
  struct Walked {
    u64 entry = 0;
    bool write = true, nx = false, dirty = false;
  };
  bool walk(u64 address, Walked& out);
  const u8* table_of(const Leaf& leaf);
  bool still(const Leaf& leaf, const u8* guest, unsigned i);
  bool build(Space& space);
  Leaf* leaf_for(u64 address);
  void enter(Leaf& leaf, const u8* guest, unsigned i, bool execute);
  const u8* host_of(const Leaf& leaf, const u8* guest, unsigned i);
  bool end_is_fine(const Leaf& leaf, const u8* guest, unsigned i);
  Shows shown(Leaf& leaf, const u8* guest, unsigned i, u64 page, const u8* host);
  void forget();

  tcg::x86::Cpu& cpu_;
  tcg::BlockStore& store_;
  UserMachine& machine_;
  TablePages pages_;
  const u64 kernel_;
  std::function<bool()> renew_;
  DropWrites drop_;
  void* self_;
  static constexpr unsigned space_count = 4;
  static constexpr usize most_leaves = 256;
  Space spaces_[space_count];
  Space* now_ = nullptr;
  bool refused_now_ = false;
  u64 uses_ = 0, generation_ = 0, fills_ = 0, rebuilt_ = 0, refused_code_ = 0;
  std::unordered_map<u64, u32> refused_;  // pages with code that is not for KVM, with their version
  std::unordered_map<u64, u32> killed_;   // how often a page that was executed was stored to
};

}  // namespace vmm::both
