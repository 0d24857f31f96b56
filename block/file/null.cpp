// null-co and null-aio: a disk that keeps nothing, for measuring what lies above it.
#include "block/core/node.h"
#include "block/core/sleep.h"

namespace vmm::block {
namespace {

struct NullOptions {
  std::optional<Bytes64> size;
  std::optional<u64> latency_ns;
  std::optional<bool> read_zeroes;
};
}  // namespace
}  // namespace vmm::block

namespace vmm {
template <>
inline constexpr std::array fields<block::NullOptions> = {
    field<&block::NullOptions::size>("size", "Length; 1 GiB if absent.", {.max = u64{1} << 62}),
    field<&block::NullOptions::latency_ns>("latency-ns", "How long each request takes.", {.max = 3'600'000'000'000}),
    field<&block::NullOptions::read_zeroes>("read-zeroes", "Reads give zeros; otherwise what was in the buffer."),
};
}  // namespace vmm

namespace vmm::block {
namespace {

class Null final : public BlockNode {
 public:
  Task<> open(Value options) override {
    NullOptions o;
    if (auto ok = assign_fields(&o, fields<NullOptions>, options); !ok) co_return std::unexpected(std::move(ok).error());
    length_ = o.size ? o.size->value : 1 * GiB;
    latency_ = Nanoseconds{i64(o.latency_ns.value_or(0))};
    zeroes_ = o.read_zeroes.value_or(false);
    co_return Result<>{};
  }
  Task<> read(u64, IoVector into) override {
    if (zeroes_) into.fill(0);
    if (latency_ > 0ns) co_await sleep_here(latency_);
    co_return Result<>{};
  }
  Task<> write(u64, IoVector, WriteFlags) override { return wait(); }
  Task<> flush() override { return wait(); }
  Task<> zero(u64, u64, ZeroFlags) override { return wait(); }
  Task<> discard(u64, u64) override { return wait(); }
  Task<Extent> map(u64, u64 length) override {
    co_return Extent{.kind = zeroes_ ? Extent::Kind::zero : Extent::Kind::data, .length = length};
  }
  Task<> truncate(u64 length, Preallocation) override {
    length_ = length;
    co_return Result<>{};
  }
  u64 length_bytes() const override { return length_; }
  Limits limits() const override { return {.fua = true}; }
  std::string filename() const override { return format("{}://", driver().name); }
  Task<u64> allocated_bytes() override { co_return u64{0}; }

 private:
  Task<> wait() {
    if (latency_ > 0ns) co_await sleep_here(latency_);
    co_return Result<>{};
  }
  u64 length_ = 0;
  Nanoseconds latency_{};
  bool zeroes_ = false;
};

Result<Value> parse_name(std::string_view) { return Value::object(); }
constexpr std::string_view co_prefix[] = {"null-co"}, aio_prefix[] = {"null-aio"};
RegisteredDriver null_co{{.name = "null-co",
                          .doc = "Keeps nothing.",
                          .kind = BlockDriver::Kind::protocol,
                          .options = fields<NullOptions>,
                          .make = make_node<Null>,
                          .prefixes = co_prefix,
                          .parse_filename = parse_name}};
RegisteredDriver null_aio{{.name = "null-aio",
                           .doc = "Keeps nothing.",
                           .kind = BlockDriver::Kind::protocol,
                           .options = fields<NullOptions>,
                           .make = make_node<Null>,
                           .prefixes = aio_prefix,
                           .parse_filename = parse_name}};

}  // namespace
}  // namespace vmm::block
