#include "tests/unit/block/format/recording_file.h"

#include <algorithm>

namespace vmm::test {

std::map<std::string, Disk>& disks() {
  static std::map<std::string, Disk> all;
  return all;
}

namespace {
using namespace block;

class Recording final : public BlockNode {
 public:
  Task<> open(Value options) override {
    const Value* name = options.find("filename");
    if (!name) co_return fail("no filename");
    name_ = name->get_string();
    if (!disks().contains(name_)) co_return fail_os(ENOENT, name_);
    disk_ = &disks()[name_];
    co_return Result<>{};
  }
  Task<> read(u64 offset, IoVector into) override {
    std::vector<u8> out(into.size());
    if (offset < disk_->bytes.size())
      std::copy_n(disk_->bytes.begin() + i64(offset), std::min<u64>(out.size(), disk_->bytes.size() - offset), out.begin());
    into.copy_in(out);
    co_return Result<>{};
  }
  Task<> write(u64 offset, IoVector from, WriteFlags) override {
    if (!disk_->fail_after) co_return fail_os(EIO);
    if (disk_->fail_after != ~u64{0}) disk_->fail_after--;
    std::vector<u8> in(from.size());
    from.copy_out(in);
    if (disk_->bytes.size() < offset + in.size()) disk_->bytes.resize(offset + in.size());
    std::ranges::copy(in, disk_->bytes.begin() + i64(offset));
    if (disk_->recording) disk_->log.push_back({Disk::Op::Kind::write, offset, std::move(in)});
    co_return Result<>{};
  }
  Task<> flush() override {
    if (disk_->recording) disk_->log.push_back({Disk::Op::Kind::flush});
    co_return Result<>{};
  }
  Task<> truncate(u64 length, Preallocation) override {
    disk_->bytes.resize(length);
    if (disk_->recording) disk_->log.push_back({Disk::Op::Kind::truncate, length});
    co_return Result<>{};
  }
  u64 length_bytes() const override { return disk_->bytes.size(); }
  bool grows() const override { return true; }
  std::string filename() const override { return name_; }

 private:
  std::string name_;
  Disk* disk_ = nullptr;
};
constexpr std::string_view prefixes[] = {"recording"};
RegisteredDriver registered{{.name = "recording",
                             .doc = "A file in memory that remembers its writes.",
                             .kind = BlockDriver::Kind::protocol,
                             .make = make_node<Recording>,
                             .prefixes = prefixes,
                             .create_file = [](EventLoop&, std::string name, CreateOptions) -> Task<> {
                               disks()[name] = {};
                               co_return Result<>{};
                             }}};
}  // namespace
}  // namespace vmm::test
