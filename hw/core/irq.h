// Interrupt lines. An Irq is a device's output; it drives one input of an IrqSink. Levels are remembered, so that settle() may set them
// again. Machine lock held.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "src/base/types.h"

namespace vmm::hw {

class IrqSink {
 public:
  virtual ~IrqSink() = default;
  virtual void set_input(unsigned line, bool level) = 0;
};

class Irq {
 public:
  void connect(IrqSink& sink, unsigned line) { sink_ = &sink, line_ = line; }
  void disconnect() { sink_ = nullptr; }
  bool connected() const { return sink_; }
  void set(bool level) {
    level_ = level;
    if (sink_) sink_->set_input(line_, level);
  }
  void raise() { set(true); }
  void lower() { set(false); }
  void pulse() { set(true), set(false); }
  bool level() const { return level_; }
  unsigned line() const { return line_; }

 private:
  IrqSink* sink_ = nullptr;
  unsigned line_ = 0;
  bool level_ = false;
};

// Several outputs on one input: high while any is high. sink(n) is the n-th leg.
class IrqOr final : public IrqSink {
 public:
  void set_input(unsigned line, bool level) override {
    if (line >= 64) return;
    levels_ = level ? levels_ | u64{1} << line : levels_ & ~(u64{1} << line);
    out.set(levels_ != 0);
  }
  Irq out;

 private:
  u64 levels_ = 0;
};

// A function as a sink.
class IrqCall final : public IrqSink {
 public:
  explicit IrqCall(std::function<void(unsigned, bool)> call) : call_(std::move(call)) {}
  void set_input(unsigned line, bool level) override { call_(line, level); }

 private:
  std::function<void(unsigned, bool)> call_;
};

}  // namespace vmm::hw
