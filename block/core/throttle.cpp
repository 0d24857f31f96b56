#include "block/core/throttle.h"

#include <algorithm>
#include <chrono>

namespace vmm::block {

namespace {
constexpr u64 largest = 1'000'000'000'000'000;
constexpr double longest_wait_seconds = 3600;
}  // namespace

Nanoseconds monotonic_now() { return std::chrono::steady_clock::now().time_since_epoch(); }

Result<> check_limits(const ThrottleLimits& l) {
  if (l.bps_total && (l.bps_read || l.bps_write))
    return fail("bps/iops/max total values and read/write values cannot be used at the same time");
  if (l.iops_total && (l.iops_read || l.iops_write))
    return fail("bps/iops/max total values and read/write values cannot be used at the same time");
  if (l.iops_size && !l.iops_total && !l.iops_read && !l.iops_write) return fail("iops size requires an iops value to be set");
  const struct {
    u64 average, most, seconds;
  } rows[] = {{l.bps_total, l.bps_total_max, l.bps_total_max_length}, {l.bps_read, l.bps_read_max, l.bps_read_max_length},
              {l.bps_write, l.bps_write_max, l.bps_write_max_length}, {l.iops_total, l.iops_total_max, l.iops_total_max_length},
              {l.iops_read, l.iops_read_max, l.iops_read_max_length}, {l.iops_write, l.iops_write_max, l.iops_write_max_length}};
  for (const auto& r : rows) {
    if (r.average > largest || r.most > largest) return fail("bps/iops/max values must be within [0, {}]", largest);
    if (!r.seconds) return fail("the burst length cannot be 0");
    if (r.seconds > 1 && !r.most) return fail("burst length set without burst rate");
    if (r.most && !r.average) return fail("bps_max/iops_max require corresponding bps/iops values");
    if (r.most && r.most < r.average) return fail("bps_max/iops_max cannot be lower than bps/iops");
  }
  return {};
}

void Throttle::set_limits(const ThrottleLimits& l) {
  Lock lock{mutex_};
  limits_ = l;
  const auto bucket = [](u64 average, u64 most, u64 seconds) {
    return Bucket{.average = double(average), .most = double(most), .burst_seconds = double(seconds)};
  };
  buckets_ = {
      bucket(l.bps_total, l.bps_total_max, l.bps_total_max_length), bucket(l.bps_read, l.bps_read_max, l.bps_read_max_length),
      bucket(l.bps_write, l.bps_write_max, l.bps_write_max_length), bucket(l.iops_total, l.iops_total_max, l.iops_total_max_length),
      bucket(l.iops_read, l.iops_read_max, l.iops_read_max_length), bucket(l.iops_write, l.iops_write_max, l.iops_write_max_length)};
  last_ = 0ns;
  active_ = l.any();
}
ThrottleLimits Throttle::limits() const {
  Lock lock{mutex_};
  return limits_;
}

Nanoseconds Throttle::take(bool writes, u64 bytes, Nanoseconds now) {
  Lock lock{mutex_};
  const double passed = last_ == 0ns ? 0 : std::max(0.0, double((now - last_).count()) / 1e9);
  last_ = now;
  const double requests = limits_.iops_size && bytes > limits_.iops_size ? double(bytes) / double(limits_.iops_size) : 1;
  double wait = 0;
  for (unsigned i = 0; i < buckets_.size(); i++) {
    Bucket& b = buckets_[i];
    if (b.average == 0) continue;
    b.level = std::max(0.0, b.level - b.average * passed);
    b.burst_level = std::max(0.0, b.burst_level - b.most * passed);
    const unsigned direction = i % 3;  // total, read, write
    if ((direction == 1 && writes) || (direction == 2 && !writes)) continue;
    const double room = b.most > 0 ? b.most * b.burst_seconds : b.average / 10;
    if (b.level > room) wait = std::max(wait, (b.level - room) / b.average);
    if (b.burst_seconds > 1 && b.burst_level > b.most / 10) wait = std::max(wait, (b.burst_level - b.most / 10) / b.most);
    const double units = i < 3 ? double(bytes) : requests;
    b.level += units, b.burst_level += units;
  }
  return Nanoseconds{i64(std::min(wait, longest_wait_seconds) * 1e9)};
}

std::shared_ptr<Throttle> throttle_of_group(const std::string& name) {
  if (Object* folder = root_object().child("objects"))
    if (auto* group = object_cast<ThrottleGroup>(folder->child(name))) return group->shared();
  static auto& groups = *new std::map<std::string, std::weak_ptr<Throttle>>;
  auto throttle = groups[name].lock();
  if (!throttle) groups[name] = throttle = std::make_shared<Throttle>();
  return throttle;
}

// --- throttle-group

Result<> ThrottleGroup::apply() {
  TRY(check_limits(limits_));
  throttle_->set_limits(limits_);
  return {};
}
Result<> ThrottleGroup::complete() {
  completed_ = true;
  return apply();
}
Value ThrottleGroup::limits() const { return show_fields(&limits_, fields<ThrottleLimits>); }
Result<> ThrottleGroup::set_limits(const Value& value) {
  ThrottleLimits wanted;
  TRY(assign_fields(&wanted, fields<ThrottleLimits>, value));
  TRY(check_limits(wanted));
  limits_ = wanted;
  if (completed_) throttle_->set_limits(limits_);
  return {};
}

constexpr Field ThrottleGroup::properties[] = {
    computed<&ThrottleGroup::limits, &ThrottleGroup::set_limits>("limits", "All limits.", {.live = true}),
    limit<&ThrottleLimits::bps_total>("x-bps-total"),
    limit<&ThrottleLimits::bps_read>("x-bps-read"),
    limit<&ThrottleLimits::bps_write>("x-bps-write"),
    limit<&ThrottleLimits::iops_total>("x-iops-total"),
    limit<&ThrottleLimits::iops_read>("x-iops-read"),
    limit<&ThrottleLimits::iops_write>("x-iops-write"),
    limit<&ThrottleLimits::bps_total_max>("x-bps-total-max"),
    limit<&ThrottleLimits::bps_read_max>("x-bps-read-max"),
    limit<&ThrottleLimits::bps_write_max>("x-bps-write-max"),
    limit<&ThrottleLimits::iops_total_max>("x-iops-total-max"),
    limit<&ThrottleLimits::iops_read_max>("x-iops-read-max"),
    limit<&ThrottleLimits::iops_write_max>("x-iops-write-max"),
    limit<&ThrottleLimits::bps_total_max_length>("x-bps-total-max-length"),
    limit<&ThrottleLimits::bps_read_max_length>("x-bps-read-max-length"),
    limit<&ThrottleLimits::bps_write_max_length>("x-bps-write-max-length"),
    limit<&ThrottleLimits::iops_total_max_length>("x-iops-total-max-length"),
    limit<&ThrottleLimits::iops_read_max_length>("x-iops-read-max-length"),
    limit<&ThrottleLimits::iops_write_max_length>("x-iops-write-max-length"),
    limit<&ThrottleLimits::iops_size>("x-iops-size"),
};
constinit const TypeInfo ThrottleGroup::type{.name = "throttle-group",
                                             .doc = "Limits that several disks share.",
                                             .parent = &Object::type,
                                             .properties = properties,
                                             .make = make<ThrottleGroup>};
static Registered registered{ThrottleGroup::type};

}  // namespace vmm::block
