// See smc.h.
#include "accel/tcg/run/smc.h"

namespace vmm::tcg {

CodePages& code_pages() {
  static CodePages pages;
  return pages;
}

bool page_has_code(memory::PageNumber page) { return !code_pages().writable_without_asking(page); }

CodeWatch::CodeWatch(BlockStore& store) : store_(store) {
  memory::CodeListener* nobody = nullptr;
  memory::code_listener.compare_exchange_strong(nobody, this);
  memory::LoggingListener* none = nullptr;
  memory::logging_listener.compare_exchange_strong(none, this);
}
CodeWatch::~CodeWatch() {
  memory::CodeListener* self = this;
  memory::code_listener.compare_exchange_strong(self, nullptr);
  memory::LoggingListener* ours = this;
  memory::logging_listener.compare_exchange_strong(ours, nullptr);
}

void CodeWatch::ram_written(memory::RamBlock& block, u64 offset, u64 length) {
  for (u64 at = offset; at < offset + length;) {
    const u64 in_page = at & page_offset_mask, here = std::min(offset + length - at, page_bytes - in_page);
    const u64 page = block.first_page() + (at >> page_bits);
    if (store_.pages().hit(page, in_page, here)) [[unlikely]]
      store_.invalidate(page, in_page, here);
    at += here;
  }
}

void CodeWatch::ram_gone(memory::RamBlock& block) { ram_written(block, 0, block.size_bytes()); }

}  // namespace vmm::tcg
