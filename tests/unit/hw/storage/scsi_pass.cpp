// scsi-block and scsi-generic over a stand-in for the host's device: a node that takes SG_IO, and gives what answers the test wants. All
// that is above the call itself is real.
#include <scsi/sg.h>

#include <cerrno>

#include "block/core/scsi_host.h"
#include "src/base/bits.h"
#include "tests/unit/hw/bench_disk.h"
#include "tests/unit/hw/virtio/driver.h"

namespace vmm::test {

namespace {
constexpr u64 head_at = 0x8000, response_at = 0x8400, data_at = 0x9000;

// A disk of the host's: 128 blocks, by SG_IO and by plain reads and writes.
class HostUnit final : public block::BlockNode, public block::ScsiHost {
 public:
  struct Answer {  // instead of the command's own
    int error = 0;
    u8 status = 0;
    u16 host_status = 0;
    std::vector<u8> sense;
    int resid = 0, sense_length = -1;
  };
  std::vector<u8> bytes = std::vector<u8>(64 * KiB);
  std::vector<u8> pages{0, 0x80, 0x83};
  int version = 30536;
  u8 kind = 0;
  std::optional<Answer> next;
  std::vector<std::vector<u8>> seen;  // commands
  u32 timeout = 0, plain = 0;

  Task<> open(Value) override { co_return Result<>{}; }
  u64 length_bytes() const override { return bytes.size(); }
  Task<> read(u64 offset, block::IoVector into) override {
    plain++;
    into.copy_in(std::span{bytes}.subspan(offset));
    co_return Result<>{};
  }
  Task<> write(u64 offset, block::IoVector from, block::WriteFlags) override {
    plain++;
    from.copy_out(std::span{bytes}.subspan(offset));
    co_return Result<>{};
  }
  u64 scsi_most_bytes() override { return 32 * KiB; }
  int scsi_ioctl(unsigned long request, void* argument) override {
    if (request == SG_GET_VERSION_NUM && version) return *static_cast<int*>(argument) = version, 0;
    if (request != SG_IO) return errno = ENOTTY, -1;
    auto& h = *static_cast<sg_io_hdr*>(argument);
    seen.emplace_back(h.cmdp, h.cmdp + h.cmd_len);
    timeout = h.timeout;
    if (next) {
      const Answer a = *std::exchange(next, std::nullopt);
      if (a.error) return errno = a.error, -1;
      h.status = a.status, h.host_status = a.host_status, h.resid = a.resid;
      std::ranges::copy(a.sense, h.sbp);
      h.sb_len_wr = static_cast<u8>(a.sense_length >= 0 ? a.sense_length : static_cast<int>(a.sense.size()));
      if (h.sb_len_wr) h.driver_status = 8;
      return 0;
    }
    carry_out(h);
    return 0;
  }

 private:
  void carry_out(sg_io_hdr& h) {
    std::vector<std::span<u8>> pieces;
    if (h.iovec_count) {
      const auto* list = static_cast<const sg_iovec_t*>(h.dxferp);
      for (unsigned i = 0; i < h.iovec_count; i++) pieces.emplace_back(static_cast<u8*>(list[i].iov_base), list[i].iov_len);
    } else if (h.dxfer_len) {
      pieces.emplace_back(static_cast<u8*>(h.dxferp), h.dxfer_len);
    }
    block::IoVector data;
    for (const auto piece : pieces) data.add(piece);
    const auto give = [&](std::span<const u8> answer) {
      const u64 n = std::min<u64>(answer.size(), h.dxfer_len);
      data.part(0, n).copy_in(answer.first(n));
      h.resid = static_cast<int>(h.dxfer_len - n);
    };
    const u8* c = h.cmdp;
    switch (c[0]) {
      case 0x00: return;
      case 0x12: {
        std::vector<u8> d(36);
        d[0] = kind, d[2] = 6, d[4] = 31;
        std::ranges::copy(std::string_view{"HOST    A REAL DISK     1.0 "}, d.begin() + 8);
        if (c[1] & 1) {
          d = {kind, c[2], 0, 0};
          if (c[2] == 0) d.insert(d.end(), pages.begin(), pages.end());
          if (c[2] == 0xb0) d.resize(64), store_be<u32>(&d[8], 0x10000);
          d[3] = static_cast<u8>(d.size() - 4);
        }
        return give(d);
      }
      case 0x1a: return give(std::array<u8, 4>{3, 0, 0, 0});
      case 0x25: return give(std::array<u8, 8>{0, 0, 0, 127, 0, 0, 2, 0});
      case 0x28: return give(std::span{bytes}.subspan(512u * c[5], 512u * c[8]));
      case 0x2a: return data.copy_out(std::span{bytes}.subspan(512u * c[5]));
      default: {
        const std::array<u8, 18> unknown{0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20};
        std::ranges::copy(unknown, h.sbp);
        h.status = 2, h.sb_len_wr = unknown.size(), h.driver_status = 8;
      }
    }
  }
};
const block::RegisteredDriver registered{
    {.name = "bench-scsi", .doc = "For tests.", .kind = block::BlockDriver::Kind::protocol, .make = block::make_node<HostUnit>}};

struct Passed {
  using Properties = std::vector<std::pair<std::string, Value>>;
  explicit Passed(bool direct = false, bool read_only = false) {
    Value options = Value::object();
    options.set("driver", "bench-scsi").set("node-name", "unit-node").set("cache", Value::object().set("direct", direct));
    if (read_only) options.set("read-only", true);
    auto& loop = bench.machine().main_loop();
    block::NodeRef node = OK(run_task(loop, block::open_node(loop, std::move(options))));
    unit = dynamic_cast<HostUnit*>(node.get());
    backend = OK(block::make_backend({.id = "unit", .read_only = read_only}));
    OK(backend->insert(std::move(node)));
    bench.add("virtio-scsi-pci", {{"addr", "5"}, {"num_queues", 1}});
  }
  ~Passed() {
    (void)run_task(bench.machine().main_loop(), backend->remove_medium());
    block::forget_backend(backend);
  }
  Result<Ref<hw::Device>> add(std::string_view type, Properties more = {}) {
    Value v = Value::object();
    v.set("drive", "unit");
    for (auto& [name, value] : more) v.set(name, value);
    auto made =
        hw::create_device(bench.machine(), {.driver = std::string{type}, .properties = v, .place = hw::DeviceSpec::Place::unattached});
    if (made) driver.emplace(bench, 6), driver->run(), (void)ask({0});  // a reset came before
    if (made) unit->seen.clear();
    return made;
  }
  // As of tests of virtio-scsi: status, with the sense key, code above it. All ones: no answer yet.
  u32 ask(std::vector<u8> cdb, u32 in = 0, u32 out = 0) {
    std::vector<u8> head(51);
    head[0] = 1, head[2] = 0x40;
    std::ranges::copy(cdb, head.begin() + 19);
    driver->memory().write(GuestPhys{head_at}, head);
    std::vector<GuestBuffer> buffers{{head_at, 51}};
    if (out) buffers.push_back({data_at, 256}), buffers.push_back({data_at + 256, out - 256});  // in two pieces
    buffers.push_back({response_at, 108, true});
    if (in) buffers.push_back({data_at, in, true});
    driver->add(2, buffers);
    driver->kick(2);
    // What is with a worker comes back to this loop.
    while (backend->in_flight()) bench.machine().main_loop().run_once(true);
    driver->run();
    return answer();
  }
  u32 answer() {
    if (!driver->used(2)) return ~u32{0};
    if (const u8 response = driver->load<u8>(response_at + 11)) return 0x8000u | response;
    const u8 status = driver->load<u8>(response_at + 10);
    return status == 2 ? 2u | driver->load<u8>(response_at + 14) << 8 | driver->load<u8>(response_at + 24) << 16 : status;
  }
  u32 sense_length() { return driver->load<u32>(response_at); }
  u32 residual() { return driver->load<u32>(response_at + 4); }
  u8 data(u64 at) { return driver->load<u8>(data_at + at); }
  std::string text(u64 at, usize n) {
    std::string s(n, 0);
    driver->memory().read(GuestPhys{data_at + at}, {reinterpret_cast<u8*>(s.data()), n});
    return s;
  }
  DeviceBench bench;
  HostUnit* unit = nullptr;
  block::BackendRef backend;
  std::optional<VirtioDriver> driver;
};
std::vector<u8> fixed(u8 key, u8 code, u8 qualifier) {
  std::vector<u8> s(18);
  s[0] = 0x70, s[2] = key, s[7] = 10, s[12] = code, s[13] = qualifier;
  return s;
}
}  // namespace

TEST(scsi_block_passes_commands_to_the_hosts_device) {
  Passed s;
  OK(s.add("scsi-block", {{"io_timeout", 7}}));
  CHECK_EQ(s.ask({0x12, 0, 0, 0, 36}, 36), 0u);
  CHECK_EQ(s.text(8, 24), "HOST    A REAL DISK     ");
  CHECK_EQ(s.unit->seen.size(), 1u);
  CHECK_EQ(s.unit->seen[0].size(), 6u);
  CHECK_EQ(s.unit->timeout, 7000u);
  // A block goes there and back, in pieces where the guest's memory is.
  for (u64 i = 0; i < 512; i++) s.driver->store<u8>(data_at + i, static_cast<u8>(i * 7));
  CHECK_EQ(s.ask({0x2a, 0, 0, 0, 0, 3, 0, 0, 1}, 0, 512), 0u);
  CHECK_EQ(s.unit->bytes[3 * 512 + 511], static_cast<u8>(511 * 7));
  s.driver->store<u8>(data_at + 100, 0);
  CHECK_EQ(s.ask({0x28, 0, 0, 0, 0, 3, 0, 0, 1}, 512), 0u);
  CHECK_EQ(s.data(100), static_cast<u8>(100 * 7));
  CHECK_EQ(s.unit->plain, 0u);  // the host's cache would not see what other commands write
  CHECK_EQ(s.ask({0xc1}), 0x200502u);
  CHECK_EQ(s.sense_length(), 18u);
  CHECK_EQ(s.unit->seen.back().size(), 10u);
  // Which units a target has is ours to tell.
  s.unit->seen.clear();
  CHECK_EQ(s.ask({0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16}, 16), 0u);
  CHECK_EQ(s.driver->load<u32>(data_at), 0x08000000u);
  CHECK(s.unit->seen.empty());
  // Commands of no known length do not get there.
  CHECK_EQ(s.ask({0x7e}), 0x200502u);
  CHECK_EQ(s.ask({0x7f, 0, 0, 0, 0, 0, 0, 0xf8}), 0x200502u);
  CHECK(s.unit->seen.empty());
}

TEST(scsi_block_reads_and_writes_by_the_block_layer_round_the_hosts_cache) {
  Passed s{true};
  OK(s.add("scsi-block"));
  s.driver->store<u8>(data_at, 0x5a);
  CHECK_EQ(s.ask({0x2a, 0, 0, 0, 0, 3, 0, 0, 1}, 0, 512), 0u);
  CHECK_EQ(s.unit->bytes[3 * 512], 0x5a);
  CHECK_EQ(s.ask({0x28, 0, 0, 0, 0, 3, 0, 0, 1}, 512), 0u);
  CHECK(s.unit->plain >= 2);
  CHECK(s.unit->seen.empty());
  CHECK_EQ(s.ask({0x28, 0, 0, 0, 0, 127, 0, 0, 2}, 1024), 0x210502u);
  CHECK_EQ(s.ask({0x28, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 2}, 1024), 0x210502u);
}

TEST(scsi_generic_passes_reads_and_writes_too) {
  Passed generic{true};
  OK(generic.add("scsi-generic"));
  CHECK_EQ(generic.ask({0x28, 0, 0, 0, 0, 3, 0, 0, 1}, 512), 0u);
  CHECK_EQ(generic.unit->plain, 0u);
}

TEST(scsi_block_tells_what_the_hosts_adapter_moves) {
  Passed s;
  OK(s.add("scsi-block", {{"scsi_version", 4}}));
  CHECK_EQ(s.ask({0x12, 0, 0, 0, 36}, 36), 0u);
  CHECK_EQ(s.data(2), 4);
  // The device has no page of limits: it appears among its pages, with the adapter's.
  CHECK_EQ(s.ask({0x12, 1, 0, 0, 64}, 64), 0u);
  CHECK_EQ(s.driver->load<u32>(data_at + 4), 0xb0838000u);
  CHECK_EQ(s.data(3), 4);
  CHECK_EQ(s.ask({0x12, 1, 0xb0, 0, 64}, 64), 0u);
  CHECK_EQ(s.driver->load<u32>(data_at + 8), 0x40000000u);  // 64 blocks, the greater end first
}

TEST(scsi_block_lowers_a_devices_own_limits) {
  Passed own;
  own.unit->pages.push_back(0xb0);
  OK(own.add("scsi-block"));
  CHECK_EQ(own.ask({0x12, 1, 0xb0, 0, 64}, 64), 0u);
  CHECK_EQ(own.driver->load<u32>(data_at + 8), 0x40000000u);
  CHECK_EQ(own.data(1), 0xb0);
}

TEST(scsi_block_bounds_what_a_device_answers) {
  Passed s;
  OK(s.add("scsi-block"));
  for (const int resid : {-5, 0x7fffffff, static_cast<int>(0x80000000)}) {
    s.unit->next = {.resid = resid};
    CHECK_EQ(s.ask({0x28, 0, 0, 0, 0, 0, 0, 0, 1}, 512), 0u);
    CHECK_EQ(s.residual(), resid > 0 ? 512u : 0u);
  }
  // Sense data that are longer than there is room for, in the other format, cut short, absent.
  s.unit->next = {.status = 2, .sense = fixed(5, 0x24, 0), .sense_length = 255};
  CHECK_EQ(s.ask({0x00}), 0x240502u);
  CHECK_EQ(s.sense_length(), 96u);
  s.unit->next = {.status = 2, .sense = {0x72, 3, 0x11, 0}};
  CHECK_EQ(s.ask({0x00}) & 0xff, 2u);
  CHECK_EQ(s.sense_length(), 4u);
  CHECK_EQ(s.driver->load<u8>(response_at + 12), 0x72);
  s.unit->next = {.status = 2, .sense = {0x70}};
  CHECK_EQ(s.ask({0x00}) & 0xff, 2u);
  s.unit->next = {.status = 2};
  CHECK_EQ(s.ask({0x00}), 0x000b02u);
  CHECK_EQ(s.sense_length(), 18u);
  // The host's own failures.
  s.unit->next = {.host_status = 3};
  CHECK_EQ(s.ask({0x00}), 0x2e0b02u);
  s.unit->next = {.host_status = 2};
  CHECK_EQ(s.ask({0x00}), 8u);
  s.unit->next = {.error = EPERM};
  CHECK_EQ(s.ask({0x00}), 0x200502u);
  s.unit->next = {.error = ENOMEM};
  CHECK_EQ(s.ask({0x00}), 0x000b02u);
  s.unit->next = {.status = 0xff};
  CHECK_EQ(s.ask({0x00}), 0x3eu);
}

TEST(scsi_block_keeps_what_failed_as_the_policy_says) {
  Passed s;
  OK(s.add("scsi-block", {{"werror", "stop"}, {"rerror", "ignore"}}));
  auto& state = s.bench.machine().run_state();
  s.driver->store<u8>(data_at, 0x77);
  s.unit->next = {.status = 2, .sense = fixed(7, 0x27, 7)};          // its space is used up
  CHECK_EQ(s.ask({0x2a, 0, 0, 0, 0, 9, 0, 0, 1}, 0, 512), ~u32{0});  // kept
  CHECK_EQ(s.unit->bytes[9 * 512], 0);
  state.start();
  s.driver->run();
  while (s.backend->in_flight()) s.bench.machine().main_loop().run_once(true);
  s.driver->run();
  CHECK_EQ(s.answer(), 0u);
  CHECK_EQ(s.unit->bytes[9 * 512], 0x77);
  s.unit->next = {.status = 2, .sense = fixed(3, 0x11, 0)};
  CHECK_EQ(s.ask({0x28, 0, 0, 0, 0, 9, 0, 0, 1}, 512), 0u);  // rerror=ignore
  s.unit->next = {.status = 2, .sense = fixed(6, 0x29, 0)};
  CHECK_EQ(s.ask({0x28, 0, 0, 0, 0, 9, 0, 0, 1}, 512), 0x290602u);  // for the guest, not for the policy
  state.stop(vm::Status::paused);
}

TEST(scsi_block_of_a_drive_that_may_only_be_read_writes_nothing) {
  Passed s{false, true};
  OK(s.add("scsi-block"));
  for (const u8 opcode : {0x0a, 0x2a, 0x8a, 0x04, 0x42, 0x93, 0x41, 0x55, 0x3b, 0xc1, 0x5f}) {
    CHECK_EQ(s.ask({opcode, 0, 0, 0, 0, 3, 0, 0, 1}), 0x270702u);
  }
  CHECK(s.unit->seen.empty());
  CHECK_EQ(s.ask({0x28, 0, 0, 0, 0, 3, 0, 0, 1}, 512), 0u);
  CHECK_EQ(s.ask({0x1a, 0, 0x3f, 0, 4}, 4), 0u);
  CHECK_EQ(s.data(2), 0x80);
}

TEST(scsi_block_says_why_a_drive_is_no_scsi_device) {
  DeviceBench bench;
  BenchDisk disk{bench, "disk"};
  bench.add("virtio-scsi-pci", {{"addr", "5"}});
  const auto refused = [&](std::string_view type) {
    Value v = Value::object();
    v.set("drive", "disk");
    const auto made =
        hw::create_device(bench.machine(), {.driver = std::string{type}, .properties = v, .place = hw::DeviceSpec::Place::unattached});
    return made ? std::string{"taken"} : made.error().message + "; " + made.error().hint;
  };
  for (const char* type : {"scsi-block", "scsi-generic"}) {
    const std::string text = refused(type);
    CHECK(text.contains(format("{}: the drive is no SCSI device: 'disk-node' (bench-memory) is no device of the host", type)));
    CHECK(text.contains("host_device"));
  }
}

TEST(scsi_block_says_what_a_host_lacks) {
  Passed s;
  s.unit->version = 20000;
  CHECK(s.add("scsi-block").error().message.contains("20000"));
  s.unit->version = 0;
  CHECK(s.add("scsi-block").error().message.contains("does not take SCSI commands: Inappropriate ioctl"));
  s.unit->version = 30000;
  s.unit->next = {.error = EPERM};
  CHECK(s.add("scsi-block").error().message.contains("INQUIRY failed"));
  s.unit->next = {.host_status = 1};
  CHECK(s.add("scsi-block").error().message.contains("INQUIRY failed"));
  s.unit->next = {.resid = 36};
  CHECK(s.add("scsi-block").error().message.contains("answered with 0 bytes"));
  OK(s.add("scsi-block"));  // what failed has left nothing behind
}

}  // namespace vmm::test
