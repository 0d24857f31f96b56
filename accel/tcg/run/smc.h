// Stores to translated code, whoever makes them (translator.md §7, "Stores to code"): the interpreter, generated code by its slow
// path, DMA and loaders.
#pragma once

#include "accel/tcg/mem/tables.h"
#include "accel/tcg/run/lookup.h"
#include "src/memory/memory.h"

namespace vmm::tcg {

// Page numbers belong to the process, and so do the words kept for them.
CodePages& code_pages();
// For System::page_has_code: write rights to such a page are never cached.
bool page_has_code(memory::PageNumber page);

// Hears of every store to RAM that is not made by generated code with a write slot. Registered while it lives.
class CodeWatch final : public memory::CodeListener {
 public:
  explicit CodeWatch(BlockStore& store);
  ~CodeWatch() override;
  void ram_written(memory::RamBlock& block, u64 offset, u64 length) override;
  void ram_gone(memory::RamBlock& block) override;

 private:
  BlockStore& store_;
};

}  // namespace vmm::tcg
