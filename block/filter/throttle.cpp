// throttle: requests wait for the limits of a throttle-group.
#include "block/core/throttle.h"

#include "block/core/sleep.h"
#include "block/filter/filter.h"

namespace vmm::block {
namespace {
struct ThrottleNodeOptions {
  std::string throttle_group;
};
}  // namespace
}  // namespace vmm::block

namespace vmm {
template <>
inline constexpr std::array fields<block::ThrottleNodeOptions> = {
    field<&block::ThrottleNodeOptions::throttle_group>("throttle-group", "Id of a throttle-group object."),
};
}  // namespace vmm

namespace vmm::block {
namespace {

class ThrottleNode final : public Filter {
 public:
  Task<> read(u64 offset, IoVector into) override {
    co_await wait(false, into.size());
    co_return co_await below().read(offset, std::move(into));
  }
  Task<> write(u64 offset, IoVector from, WriteFlags flags) override {
    co_await wait(true, from.size());
    co_return co_await below().write(offset, std::move(from), flags);
  }
  Task<> zero(u64 offset, u64 length, ZeroFlags flags) override {
    co_await wait(true, length);
    co_return co_await below().zero(offset, length, flags);
  }
  Task<> discard(u64 offset, u64 length) override {
    co_await wait(true, length);
    co_return co_await below().discard(offset, length);
  }

 protected:
  Result<> set_options(const Value& options) override {
    ThrottleNodeOptions o;
    TRY(assign_fields(&o, fields<ThrottleNodeOptions>, options));
    Object* folder = root_object().child("objects");
    auto* group = folder ? object_cast<ThrottleGroup>(folder->child(o.throttle_group)) : nullptr;
    if (!group) return fail("Throttle group '{}' does not exist", o.throttle_group);
    throttle_ = group->shared();
    return {};
  }

 private:
  Task<> wait(bool writes, u64 bytes) {
    if (throttle_->active()) {
      const Nanoseconds span = throttle_->take(writes, bytes, monotonic_now());
      if (span > 0ns) co_await sleep_here(span);
    }
    co_return Result<>{};
  }
  std::shared_ptr<Throttle> throttle_;
};

RegisteredDriver registered{{.name = "throttle",
                             .doc = "Holds requests to the limits of a throttle-group.",
                             .kind = BlockDriver::Kind::filter,
                             .options = fields<ThrottleNodeOptions>,
                             .children = filter_children,
                             .make = make_node<ThrottleNode>}};
}  // namespace
}  // namespace vmm::block
