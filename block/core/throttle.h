// Limits of bytes and requests a second. A bucket leaks at its average rate; what does not fit waits. Bursts fill a larger bucket, or
// for some seconds one that leaks at the burst rate. Any thread.
#pragma once

#include <array>

#include "src/base/lock.h"
#include "src/object/object.h"
#include "src/value/field.h"

namespace vmm::block {

struct ThrottleLimits {
  u64 bps_total = 0, bps_read = 0, bps_write = 0, iops_total = 0, iops_read = 0, iops_write = 0;
  u64 bps_total_max = 0, bps_read_max = 0, bps_write_max = 0, iops_total_max = 0, iops_read_max = 0, iops_write_max = 0;
  u64 bps_total_max_length = 1, bps_read_max_length = 1, bps_write_max_length = 1;
  u64 iops_total_max_length = 1, iops_read_max_length = 1, iops_write_max_length = 1;
  u64 iops_size = 0;  // larger requests count as several
  bool any() const { return bps_total || bps_read || bps_write || iops_total || iops_read || iops_write; }
};
Result<> check_limits(const ThrottleLimits& limits);

class Throttle {
 public:
  void set_limits(const ThrottleLimits& limits);
  ThrottleLimits limits() const;
  bool active() const { return active_.load(std::memory_order_relaxed); }
  // Counts the request, and says how long it has to wait before it may start.
  Nanoseconds take(bool writes, u64 bytes, Nanoseconds now);

 private:
  struct Bucket {
    double average = 0, most = 0, burst_seconds = 1, level = 0, burst_level = 0;
  };
  mutable Mutex mutex_;
  ThrottleLimits limits_ GUARDED_BY(mutex_);
  std::array<Bucket, 6> buckets_ GUARDED_BY(mutex_);
  Nanoseconds last_ GUARDED_BY(mutex_){0};
  std::atomic<bool> active_{false};
};
Nanoseconds monotonic_now();
// The limits that drives share by a group's name (-drive throttling.group=, block_set_io_throttle group=): made at first use, or those
// of the throttle-group object of that name.
std::shared_ptr<Throttle> throttle_of_group(const std::string& name);

// -object throttle-group: limits that several disks share.
class ThrottleGroup final : public Object {
 public:
  static const TypeInfo type;
  Result<> complete() override;
  Throttle& throttle() { return *throttle_; }
  std::shared_ptr<Throttle> shared() { return throttle_; }

 private:
  Value limits() const;
  Result<> set_limits(const Value& value);
  template <u64 ThrottleLimits::* Member>
  u64 get_limit() const {
    return limits_.*Member;
  }
  template <u64 ThrottleLimits::* Member>
  Result<> set_limit(const u64& value) {
    limits_.*Member = value;
    if (completed_) return apply();
    return {};
  }
  template <u64 ThrottleLimits::* Member>
  static constexpr Field limit(std::string_view name) {
    return computed<&ThrottleGroup::get_limit<Member>, &ThrottleGroup::set_limit<Member>>(name, "Limit.", {.live = true});
  }
  Result<> apply();
  static const Field properties[];
  ThrottleLimits limits_;
  bool completed_ = false;
  std::shared_ptr<Throttle> throttle_ = std::make_shared<Throttle>();
};

}  // namespace vmm::block

namespace vmm {
template <>
inline constexpr std::array fields<block::ThrottleLimits> = {
    field<&block::ThrottleLimits::bps_total>("bps-total", "Bytes a second.", {.optional = true}),
    field<&block::ThrottleLimits::bps_read>("bps-read", "Bytes read a second.", {.optional = true}),
    field<&block::ThrottleLimits::bps_write>("bps-write", "Bytes written a second.", {.optional = true}),
    field<&block::ThrottleLimits::iops_total>("iops-total", "Requests a second.", {.optional = true}),
    field<&block::ThrottleLimits::iops_read>("iops-read", "Reads a second.", {.optional = true}),
    field<&block::ThrottleLimits::iops_write>("iops-write", "Writes a second.", {.optional = true}),
    field<&block::ThrottleLimits::bps_total_max>("bps-total-max", "Burst.", {.optional = true}),
    field<&block::ThrottleLimits::bps_read_max>("bps-read-max", "Burst.", {.optional = true}),
    field<&block::ThrottleLimits::bps_write_max>("bps-write-max", "Burst.", {.optional = true}),
    field<&block::ThrottleLimits::iops_total_max>("iops-total-max", "Burst.", {.optional = true}),
    field<&block::ThrottleLimits::iops_read_max>("iops-read-max", "Burst.", {.optional = true}),
    field<&block::ThrottleLimits::iops_write_max>("iops-write-max", "Burst.", {.optional = true}),
    field<&block::ThrottleLimits::bps_total_max_length>("bps-total-max-length", "Seconds of the burst.", {.min = 1, .optional = true}),
    field<&block::ThrottleLimits::bps_read_max_length>("bps-read-max-length", "Seconds of the burst.", {.min = 1, .optional = true}),
    field<&block::ThrottleLimits::bps_write_max_length>("bps-write-max-length", "Seconds of the burst.", {.min = 1, .optional = true}),
    field<&block::ThrottleLimits::iops_total_max_length>("iops-total-max-length", "Seconds of the burst.", {.min = 1, .optional = true}),
    field<&block::ThrottleLimits::iops_read_max_length>("iops-read-max-length", "Seconds of the burst.", {.min = 1, .optional = true}),
    field<&block::ThrottleLimits::iops_write_max_length>("iops-write-max-length", "Seconds of the burst.", {.min = 1, .optional = true}),
    field<&block::ThrottleLimits::iops_size>("iops-size", "Bytes that count as one request.", {.optional = true}),
};
}  // namespace vmm
