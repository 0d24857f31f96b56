// See portable.h. The order of marking, dropping rights and reading is translator.md §7's.
#include "accel/tcg/run/portable.h"

#include <cstring>

#include "accel/tcg/mem/tables.h"
#include "src/memory/ram.h"

namespace vmm::tcg {

bool PortableRunner::run(unsigned limit, u64 extra_key, ir::ExitReason& reason) {
  store_.bury_some();
  reader_.enter();
  const ir::Block* const block = find_or_make(limit, ops_.key(cpu_) | extra_key);
  // A single step is one instruction, even if it jumps to itself.
  if (block) reason = interpret(cpu_, *block, limit > 1 ? 1000 : 0);
  reader_.exit();
  return block;
}

const ir::Block* PortableRunner::remember(CodeBlock& found) {
  auto& block = static_cast<Portable&>(found);
  if (block.second_page == CodeBlock::no_page) {
    recent_[recent_slot(block.page, block.offset, block.key)] = {
        .page = block.page, .key = block.key, .offset = block.offset, .block = &block};
  }
  return &block.block;
}

const ir::Block* PortableRunner::find_or_make(unsigned limit, u64 key) {
  if (burials_ != store_.burials()) {
    for (unsigned i = 0; i < recent_count; i++) recent_[i] = {};
    burials_ = store_.burials();
  }
  const u64 stored_key = key | key_portable | (limit == 1 ? key_single : 0);
  for (unsigned attempt = 0;; attempt++) {
    Code code, second;
    if (!ops_.fetch(cpu_, false, code)) return nullptr;
    const bool keep = code.page != Code::no_page;
    if (keep) {
      const Recent& recent = recent_[recent_slot(code.page, code.offset, stored_key)];
      if (recent.page == code.page && recent.offset == code.offset && recent.key == stored_key &&
          !recent.block->dead.load(std::memory_order_acquire)) {
        return &recent.block->block;
      }
      CodeBlock* found = store_.find(code.page, code.offset, stored_key);
      if (!found && code.offset > page_bytes - 16 && store_.straddles(code.page, code.offset, stored_key)) {
        if (!ops_.fetch(cpu_, true, second)) return nullptr;
        found = store_.find(code.page, code.offset, stored_key, second.page);
      }
      if (found) return remember(*found);
    }
    u8 bytes[1024 + 16];
    const usize have = std::min<usize>(code.bytes.size(), 1024);
    memory::ram_copy_out(bytes, code.bytes.data(), have);
    auto made = std::make_unique<Portable>();
    ir::Block& block = made->block;
    if (ops_.translate(cpu_, key, {bytes, have}, code.offset, Form::portable, limit, block) == Translated::more) {
      if (!ops_.fetch(cpu_, true, second)) return nullptr;
      const usize extra = std::min<usize>(second.bytes.size(), 16);
      memory::ram_copy_out(bytes + have, second.bytes.data(), extra);
      if (ops_.translate(cpu_, key, {bytes, have + extra}, code.offset, Form::portable, 1, block) == Translated::more) return nullptr;
    }
    const usize here = std::min<usize>(block.bytes, page_bytes - code.offset);
    if (!keep || (block.straddles && second.page == Code::no_page) || block.bytes == 0) {
      scratch_ = std::move(block);
      return &scratch_;
    }
    // False: another vCPU still waits for write rights to this page to be dropped.
    BlockStore::Claim claims[2];
    const auto mark = [&](u64 page, u16 offset, usize length, const u8* host, BlockStore::Claim& claim) {
      CodePage* const words = store_.pages().get(page);
      if (!words) return false;
      words->dropping.fetch_add(1, std::memory_order_seq_cst);
      const bool fresh = words->granules.load(std::memory_order_seq_cst) == 0;
      claim = store_.announce(page, offset, static_cast<u16>(length));
      if (fresh && drop_) drop_(self_, page, host);
      return words->dropping.fetch_sub(1, std::memory_order_seq_cst) == 1;
    };
    bool settled = mark(code.page, code.offset, here, code.bytes.data() - code.offset, claims[0]);
    if (block.straddles) settled &= mark(second.page, 0, block.bytes - here, second.bytes.data(), claims[1]);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const bool same = memory::ram_equal(code.bytes.data(), bytes, std::min(here, have)) &&
                      (!block.straddles || memory::ram_equal(second.bytes.data(), bytes + here, block.bytes - here));
    if (!same && attempt < 4) continue;
    if (!same || !settled) {
      scratch_ = std::move(block);
      return &scratch_;
    }
    made->page = code.page;
    made->second_page = block.straddles ? second.page : CodeBlock::no_page;
    made->offset = code.offset;
    made->bytes = block.bytes;
    made->key = stored_key;
    block.ops.shrink_to_fit(), block.instructions.shrink_to_fit(), block.natives.shrink_to_fit();
    // Dead if the bytes changed meanwhile; it is run this once, as by a CPU that had fetched it before.
    Portable& kept = *made.release();
    return store_.insert(kept, claims) ? remember(kept) : &kept.block;
  }
}

}  // namespace vmm::tcg
