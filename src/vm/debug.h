// What a debugger outside the machine asks of the vCPUs: where to stop, and how to step. The debugger's side (main loop, machine lock
// held) changes it only while every vCPU is stopped; vCPUs read it while they run, and hear of changes when they are resumed.
#pragma once

#include <functional>
#include <map>
#include <span>
#include <vector>

#include "src/base/types.h"

namespace vmm::vm {

class Vcpu;

struct DebugPoint {
  enum class Kind : u8 { software, hardware, write, read, access };
  Kind kind = Kind::software;
  u64 address = 0;  // linear
  u64 length = 1;   // of watched data; of an instruction it does not matter
  bool code() const { return kind == Kind::software || kind == Kind::hardware; }
  bool operator==(const DebugPoint&) const = default;
};

// Why a vCPU has stopped by itself.
struct DebugStop {
  enum class Why : u8 { none, step, code, watch } why = Why::none;
  DebugPoint::Kind kind{};  // watch: of the point that was met
  u64 address = 0;          // watch: the address that the point names
};

struct StepOptions {
  bool hold_interrupts = true;  // none is taken before the instruction
};

class Debug {
 public:
  bool insert(const DebugPoint& point);  // false: too many, or what the accelerator cannot hold
  bool remove(const DebugPoint& point);  // false: it is not set
  void clear();
  // Of an accelerator that has few places for them: whether it can hold all of these at once.
  void limit(std::function<bool(std::span<const DebugPoint>)> holds) { holds_ = std::move(holds); }
  std::span<const DebugPoint> points() const { return points_; }
  bool any() const { return !points_.empty(); }
  bool watches() const { return !watch_.empty(); }

  // An instruction breakpoint stands exactly here.
  bool stops_at(u64 linear) const;
  // Names the set of places inside a page at which blocks of code that lie on the page of `linear` must end; 0: no breakpoint on that
  // page. A set keeps its name, so that what was translated for it can be used again.
  u32 cuts_of(u64 linear) const;
  std::span<const u16> cuts() const { return cuts_; }  // of every page that has breakpoints; sorted
  // The watched range that an access meets, or null.
  const DebugPoint* watched(u64 address, u64 size, bool write) const;
  bool watches_page(u64 page_address) const;

  // A vCPU has stopped by itself. Any thread; the function must only post.
  void on_stop(std::function<void(Vcpu&, const DebugStop&)> f) { stopped_ = std::move(f); }
  void report(Vcpu& vcpu, const DebugStop& stop) {
    if (stopped_) stopped_(vcpu, stop);
  }

 private:
  void rebuild();
  static constexpr usize most_points = 4096, most_sets = 4096;
  std::vector<DebugPoint> points_, watch_;
  std::vector<u64> code_, pages_;  // sorted
  std::vector<u16> cuts_;
  std::map<std::vector<u16>, u32> sets_;
  u32 set_ = 0, last_set_ = 0;
  std::function<void(Vcpu&, const DebugStop&)> stopped_;
  std::function<bool(std::span<const DebugPoint>)> holds_;
};

}  // namespace vmm::vm
