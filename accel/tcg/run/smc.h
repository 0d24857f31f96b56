// Stores to translated code, whoever makes them (translator.md §7, "Stores to code"): the interpreter, generated code by its slow
// path, DMA and loaders.
#pragma once

#include <functional>

#include "accel/tcg/mem/tables.h"
#include "accel/tcg/run/lookup.h"
#include "src/memory/logging.h"
#include "src/memory/memory.h"

namespace vmm::tcg {

// Page numbers belong to the process, and so do the words kept for them.
CodePages& code_pages();
// For System::page_has_code: write rights to such a page are never cached.
bool page_has_code(memory::PageNumber page);

// Hears of every store to RAM that is not made by generated code with a write slot. Registered while it lives.
class CodeWatch final : public memory::CodeListener, public memory::LoggingListener {
 public:
  explicit CodeWatch(BlockStore& store);
  ~CodeWatch() override;
  void ram_written(memory::RamBlock& block, u64 offset, u64 length) override;
  void ram_gone(memory::RamBlock& block) override;
  void logging_started(memory::RamBlock& block) override {
    if (drop_writes_) drop_writes_(block);
  }
  // `f`: takes away what vCPUs keep of rights to write a block. Set before they run.
  void on_logging(std::function<void(memory::RamBlock&)> f) { drop_writes_ = std::move(f); }

 private:
  BlockStore& store_;
  std::function<void(memory::RamBlock&)> drop_writes_;
};

}  // namespace vmm::tcg
