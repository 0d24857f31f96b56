// scsi-block and scsi-generic: a unit of the host's as the guest's. Commands and answers pass as they are (block/core/scsi_host.h); whose
// unit it is in the guest (REPORT LUNS, resets) is ours to say. Sources: SPC-5 §6 (INQUIRY, commands), SBC-4 §6.6 (block limits), MMC-6,
// SSC-5. Not modelled: persistent reservations by a helper of the host.
#include <bit>

#include "block/core/scsi_host.h"
#include "hw/storage/scsi_disk.h"
#include "src/base/bits.h"
#include "src/event/worker_pool.h"

namespace vmm::hw {

namespace {

// What a drive that may only be read is sent, by opcode: neither contents nor settings change. (The kernel's own filter does not hold for
// root.) Many opcodes are something else on a disc (MMC-6): 0x42 reads its sub-channel, and unmaps a disk's blocks.
constexpr u8 harmless[] = {0x00, 0x01, 0x03, 0x05, 0x08, 0x11, 0x12, 0x1a, 0x1b, 0x1c, 0x1e, 0x25, 0x28, 0x2b, 0x2f, 0x34, 0x35, 0x37, 0x3c,
                           0x3e, 0x44, 0x4d, 0x5a, 0x5e, 0x88, 0x8c, 0x8f, 0x91, 0x92, 0x95, 0x9e, 0xa2, 0xa3, 0xa8, 0xab, 0xaf, 0xb8};
constexpr u8 harmless_to_discs[] = {0x23, 0x42, 0x43, 0x45, 0x46, 0x47, 0x4a, 0x4b, 0x4e, 0x51,
                                    0x52, 0x5c, 0xa4, 0xac, 0xad, 0xb9, 0xba, 0xbb, 0xbd, 0xbe};

// SPC-5 §4.2.5, by the opcode's group; 0: no such command. Vendors' groups are of ten bytes, as the kernel takes them to be.
u8 cdb_bytes(const std::array<u8, 32>& c) {
  constexpr u8 by_group[8] = {6, 10, 10, 0, 16, 12, 10, 10};
  if (c[0] != 0x7f) return by_group[c[0] >> 5];
  const unsigned n = 8u + c[7];
  return n <= c.size() && n % 4 == 0 ? static_cast<u8>(n) : 0;
}

enum class Access : u8 { other, read, write };
Access access_of(u8 opcode) {
  switch (opcode) {
    case 0x08:
    case 0x28:
    case 0xa8:
    case 0x88: return Access::read;
    case 0x0a:
    case 0x2a:
    case 0xaa:
    case 0x8a:
    case 0x2e:
    case 0xae:
    case 0x8e: return Access::write;
    default: return Access::other;
  }
}

ScsiSense sense_in(const block::ScsiPass& pass) {
  const auto& s = pass.sense;
  const u8 n = pass.sense_bytes, form = n ? s[0] & 0x7f : 0;
  if ((form == 0x72 || form == 0x73) && n >= 4) return {static_cast<u8>(s[1] & 0xf), s[2], s[3]};
  if ((form == 0x70 || form == 0x71) && n >= 3) return {static_cast<u8>(s[2] & 0xf), n > 12 ? s[12] : u8{0}, n > 13 ? s[13] : u8{0}};
  return sense::io_error;
}

// A read or write as rerror= and werror= see it: 0, or the errno of a failure that is the drive's. What else there is to say (a reset, a
// mistake in the command, a full queue) is for the guest alone.
int failure_of(const block::ScsiPass& pass) {
  if (pass.host_status || pass.driver_status) return EIO;
  if (pass.status != scsi_check_condition) return 0;
  const ScsiSense s = sense_in(pass);
  if (s.key == 7 && s.code == 0x27 && s.qualifier == 7) return ENOSPC;
  return s.key == 3 || s.key == 4 || s.key == 0xb ? EIO : 0;
}

Task<> pass_on(block::Edge& root, block::ScsiPass& pass, bool judged) {
  const Result<block::ScsiHost*> found = block::scsi_host(root.node());
  if (!found) co_return fail_os(ENOTSUP, found.error().message);
  block::ScsiHost* const host = *found;
  co_await worker_pool().run<void>(root.node().loop(), [host, &pass] { return block::send_scsi(*host, pass); });
  if (const int failed = judged ? failure_of(pass) : 0) co_return fail_os(failed);
  co_return Result<>{};
}

}  // namespace

class ScsiPassed : public ScsiDevice, public block::BackendClient {
 public:
  void reset_unit() override {
    ScsiDevice::reset_unit();
    cancel_waiting();
  }
  void cancel_waiting() override { requests_.give_up(); }
  block::Backend* drive() const override { return disk_.drive.get(); }
  bool passes() const override { return true; }
  std::string qom_path() const override { return path(); }
  std::vector<BootEntry> boot_entries() const override {
    return {disk_.boot_entries(format("/channel@{:x}/disk@{:x},{:x}", channel(), target(), lun()))};
  }

 protected:
  static constexpr usize passed_field_count = 4;
  static constexpr std::array<Field, passed_field_count> passed_fields() {
    using disk_detail::inner_field;
    using D = DiskProperties;
    return {
        inner_field<&ScsiPassed::disk_, &D::drive>("drive", "Node name or ID of a block device to use as a backend"),
        inner_field<&ScsiPassed::disk_, &D::share_rw>("share-rw", "Others may write to the device as well."),
        inner_field<&ScsiPassed::disk_, &D::boot_index>("bootindex", "Place in the boot order."),
        field<&ScsiPassed::timeout_s_>("io_timeout", "Seconds that a command may take."),
    };
  }

  Result<> realize() override;
  Task<> unrealize() override;
  Task<ScsiAnswer> carry_out(ScsiCommand& command) override;
  virtual bool by_block_layer() const { return false; }  // plain reads and writes
  virtual Result<> may_have(const block::Backend::Options&) const { return {}; }

  DiskProperties disk_;
  u32 timeout_s_ = 30;
  u64 max_io_ = 0x7fffffff;
  i32 scsi_version_ = -1;

 private:
  Result<> look(block::ScsiHost& host);
  Result<std::vector<u8>> ask(block::ScsiHost& host, std::initializer_list<u8> cdb, usize bytes) const;
  bool has_blocks() const { return kind_ == 0 || kind_ == 5 || kind_ == 7 || kind_ == 0xe; }
  u32 timeout_ms() const { return static_cast<u32>(std::min<u64>(u64{timeout_s_} * 1000, ~u32{0})); }
  u32 most_blocks() const;
  Task<ScsiAnswer> transfer(ScsiCommand& command, bool write);
  static ScsiAnswer judge(const block::ScsiPass& pass, const Result<>& done, bool judged);
  void amend(ScsiCommand& command, ScsiAnswer& a);
  void amend_inquiry(ScsiCommand& command, ScsiAnswer& a) const;
  ScsiAnswer block_limits(ScsiCommand& command) const;

  DiskRequests requests_;
  u8 kind_ = 0;  // peripheral device type
  u32 block_bytes_ = 512;
  u64 most_bytes_ = 0;           // that the host moves by one command; 0: not known
  bool limits_missing_ = false;  // the device has pages of vital data, but none of block limits
  bool cache_bypassed_ = false;
};

// --- Life

Result<std::vector<u8>> ScsiPassed::ask(block::ScsiHost& host, std::initializer_list<u8> cdb, usize bytes) const {
  block::Buffer answer{bytes};
  answer.vector().fill(0);
  block::ScsiPass pass{.data = answer.vector(), .timeout_ms = timeout_ms()};
  std::ranges::copy(cdb, pass.cdb.begin());
  pass.cdb_bytes = cdb_bytes(pass.cdb);
  for (unsigned tries = 0;; tries++) {
    TRY(block::send_scsi(host, pass));
    if (pass.host_status || pass.driver_status) return fail("the host could not bring it to the device ({})", pass.host_status);
    if (!pass.status) return std::vector<u8>(answer.data(), answer.data() + pass.transferred);
    // After a reset or with a new medium the first commands are told so instead.
    if (pass.status != scsi_check_condition || sense_in(pass).key != 6 || tries == 4) return fail("status {:#x}", pass.status);
  }
}

Result<> ScsiPassed::look(block::ScsiHost& host) {
  TRY(block::find_scsi_device(host));
  const auto who = ask(host, {0x12, 0, 0, 0, 36, 0}, 36);
  if (!who) return fail("INQUIRY failed: {}", who.error().message);
  if (who->size() < 5) return fail("INQUIRY was answered with {} bytes", who->size());
  kind_ = (*who)[0] & 0x1f;
  block_bytes_ = kind_ == 5 ? 2048 : 512;
  most_bytes_ = host.scsi_most_bytes();
  if (has_blocks())
    if (const auto capacity = ask(host, {0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 8); capacity && capacity->size() == 8)
      if (const u32 size = load_be<u32>(&(*capacity)[4]); std::has_single_bit(size) && size >= 512 && size <= 64 * KiB) block_bytes_ = size;
  if (kind_ == 0)
    if (const auto pages = ask(host, {0x12, 1, 0, 0, 255, 0}, 255); pages && pages->size() > 4)
      limits_missing_ = std::ranges::find(pages->begin() + 4, pages->end(), 0xb0) == pages->end();
  return {};
}

Result<> ScsiPassed::realize() {
  if (!disk_.drive) return fail("drive property not set");
  TRY(may_have(disk_.drive->options()));
  if (!disk_.drive->has_medium()) return fail("Device needs media, but drive is empty");
  const auto with = [&](const Error& error) {
    return std::unexpected(Error{format("{}: the drive is no SCSI device: {}", type_info().name, error.message)}.with_hint(
        "Its drive is a host_device node on a SCSI device of the host: /dev/sdX, /dev/srN, /dev/sgN."));
  };
  const auto host = block::scsi_host(*disk_.drive->node());
  if (!host) return with(host.error());
  if (auto found = look(**host); !found) return with(found.error());
  disk_.logical_block.value = disk_.physical_block.value = block_bytes_;
  TRY(disk_.settle(65535, 255, 255));
  if (const auto* node = dynamic_cast<block::BlockNode*>(*host)) cache_bypassed_ = node->options().cache_direct;
  TRY(requests_.open(machine(), *this, disk_, true));
  reset_unit();
  if (scsi().adapter) scsi().adapter->scsi_plugged(*this);
  return {};
}

Task<> ScsiPassed::unrealize() {
  if (scsi().adapter) scsi().adapter->scsi_unplugged(*this);
  co_await requests_.close();
  disk_.drive->set_loop(machine().main_loop());  // the adapter may have moved it
  co_return Result<>{};
}

// --- Commands

Task<ScsiAnswer> ScsiPassed::carry_out(ScsiCommand& command) {
  const auto& c = command.cdb;
  const u8 length = cdb_bytes(c);
  if (!length) co_return ScsiAnswer::check(sense::invalid_opcode);
  const bool reads = std::ranges::binary_search(harmless, c[0]) || (kind_ == 5 && std::ranges::binary_search(harmless_to_discs, c[0]));
  if (disk_.drive->read_only() && !reads) co_return ScsiAnswer::check(sense::write_protected);
  const bool to_device = !command.out.empty();
  const block::IoVector& data = to_device ? command.out : command.in;
  if (data.pieces().size() > block::scsi_most_pieces || data.size() > ~u32{0}) co_return ScsiAnswer::check(sense::invalid_field);
  const Access access = access_of(c[0]);
  // The host's cache would not hear of what other commands write: only a node that goes round it may take these.
  const bool protect = c[0] >= 0x20 && c[1] & 0xe0, verifies = (c[0] & 0xf) == 0xe;
  if (access != Access::other && by_block_layer() && cache_bypassed_ && has_blocks() && !protect && !verifies) {
    ScsiAnswer moved = co_await transfer(command, access == Access::write);
    co_return moved;
  }
  if (limits_missing_ && c[0] == 0x12 && c[1] & 1 && c[2] == 0xb0) co_return block_limits(command);
  block::ScsiPass pass{.cdb = c, .cdb_bytes = length, .to_device = to_device, .data = data, .timeout_ms = timeout_ms()};
  const bool judged = access != Access::other;
  const auto question = [&pass, judged](block::Edge& root) { return pass_on(root, pass, judged); };
  const auto operation = access == Access::write ? block::Operation::write : block::Operation::read;
  Task<> request = judged ? requests_.ask(operation, data.size(), question) : disk_.drive->inspect(question);
  const Result<> done = co_await attempt(std::move(request));
  ScsiAnswer a = judge(pass, done, judged);
  if (a.status == scsi_good) amend(command, a);
  co_return a;
}

// `judged`: it is a read or write, of which the policy decided already.
ScsiAnswer ScsiPassed::judge(const block::ScsiPass& pass, const Result<>& done, bool judged) {
  if (!pass.answered || pass.host_status || pass.driver_status) {
    if (done && judged) return {.transferred = pass.data.size()};  // a failure that the policy ignores
    if (!pass.answered) return ScsiAnswer::check(error_number(done.error()) == EPERM ? sense::invalid_opcode : sense_of(done.error()));
    enum { no_connection = 1, bus_busy = 2, timed_out = 3, bad_target = 4 };  // DID_…
    switch (pass.host_status) {
      case no_connection:
      case bad_target: return ScsiAnswer::check(sense::lun_not_supported);
      case bus_busy: return {.status = scsi_busy};
      case timed_out: return ScsiAnswer::check({0xb, 0x2e, 2});
      default: return ScsiAnswer::check(sense::io_error);
    }
  }
  if (done && judged && failure_of(pass)) return {.transferred = pass.data.size()};
  ScsiAnswer a{.status = pass.status, .transferred = pass.transferred};
  if (a.status != scsi_check_condition) return a;
  a.sense = sense_in(pass);
  a.sense_data.assign(pass.sense.begin(), pass.sense.begin() + pass.sense_bytes);
  return a;
}

// Reads and writes as those of other disks: limits, policies and jobs hold for them.
Task<ScsiAnswer> ScsiPassed::transfer(ScsiCommand& command, bool write) {
  const ScsiRange r = range_of(command.cdb);
  const u64 blocks = disk_.drive->length_bytes() / block_bytes_;
  if (r.first > blocks || r.count > blocks - r.first) co_return ScsiAnswer::check(sense::out_of_range);
  const block::IoVector& data = write ? command.out : command.in;
  const u64 here = std::min(r.count * block_bytes_, data.size()) / block_bytes_ * block_bytes_, offset = r.first * block_bytes_;
  if (!here) co_return ScsiAnswer{};
  const bool fua = command.cdb[0] >= 0x20 && command.cdb[1] & 8;
  Task<> request = write ? requests_.write(offset, data.part(0, here), fua) : requests_.read(offset, data.part(0, here));
  const Result<> done = co_await attempt(std::move(request));
  if (!done) co_return ScsiAnswer::check(sense_of(done.error()));
  co_return ScsiAnswer{.transferred = here};
}

// --- What the guest has to hear otherwise

void ScsiPassed::amend(ScsiCommand& command, ScsiAnswer& a) {
  const auto& c = command.cdb;
  if (!a.transferred || command.in.empty()) return;
  if (c[0] == 0x12) return amend_inquiry(command, a);
  if (has_blocks() && ((c[0] == 0x25 && a.transferred >= 8) || (c[0] == 0x9e && (c[1] & 0x1f) == 0x10 && a.transferred >= 12))) {
    u8 bytes[4];  // a new medium may have other blocks
    command.in.part(c[0] == 0x25 ? 4 : 8, 4).copy_out(bytes);
    if (const u32 size = load_be<u32>(bytes); std::has_single_bit(size) && size >= 512 && size <= 64 * KiB) block_bytes_ = size;
  }
  const usize protection = c[0] == 0x1a ? 2 : 3;
  if ((c[0] == 0x1a || c[0] == 0x5a) && disk_.drive->read_only() && kind_ == 0 && a.transferred > protection) {
    u8 byte[1];
    const block::IoVector at = command.in.part(protection, 1);
    at.copy_out(byte);
    byte[0] |= 0x80;
    at.copy_in(byte);
  }
}

u32 ScsiPassed::most_blocks() const {
  const u64 bytes = most_bytes_ ? std::min(most_bytes_, max_io_) : max_io_;
  return static_cast<u32>(std::clamp<u64>(bytes / block_bytes_, 1, ~u32{0}));
}

// The longest transfer is what the host's adapter moves too; a device that does not tell its limits tells the host's.
void ScsiPassed::amend_inquiry(ScsiCommand& command, ScsiAnswer& a) const {
  const auto& c = command.cdb;
  if (!(c[1] & 1)) {
    const u8 version[1] = {static_cast<u8>(scsi_version_)};
    if (scsi_version_ >= 0 && a.transferred >= 3) command.in.part(2, 1).copy_in(version);
    return;
  }
  if (c[2] == 0xb0 && kind_ == 0 && a.transferred >= 16) {
    std::array<u8, 16> d;
    command.in.part(0, d.size()).copy_out(d);
    for (const usize at : {8u, 12u})
      if (const u32 own = load_be<u32>(&d[at]); !own || own > most_blocks()) store_be<u32>(&d[at], at == 12 && !own ? 0 : most_blocks());
    command.in.part(0, d.size()).copy_in(d);
  }
  if (c[2] == 0 && limits_missing_ && a.transferred > 4) {
    std::vector<u8> d(std::min<u64>(a.transferred, 260));
    command.in.part(0, d.size()).copy_out(d);
    if (load_be<u16>(&d[2]) + 4u != d.size() || d.size() == 260) return;  // cut off
    d.insert(std::ranges::upper_bound(d.begin() + 4, d.end(), u8{0xb0}), 0xb0);
    store_be<u16>(&d[2], static_cast<u16>(d.size() - 4));
    a = answer(command, d, load_be<u16>(&c[3]));
  }
}

ScsiAnswer ScsiPassed::block_limits(ScsiCommand& command) const {
  std::array<u8, 64> d{};
  d[0] = kind_, d[1] = 0xb0, d[3] = d.size() - 4;
  store_be<u32>(&d[8], most_blocks());
  return answer(command, d, load_be<u16>(&command.cdb[3]));
}

// --- The two types

class ScsiBlock final : public ScsiPassed {
 public:
  static const TypeInfo type;

 private:
  bool by_block_layer() const override { return true; }
  static const std::array<Field, passed_field_count + 6> properties;
  u64 max_unmap_ = 1 << 30;
  u16 rotation_ = 0;
};

constexpr std::array<Field, ScsiPassed::passed_field_count + 6> ScsiBlock::properties =
    ScsiPassed::passed_fields() +
    std::array{
        disk_detail::inner_field<&ScsiBlock::disk_, &DiskProperties::rerror>("rerror",
                                                                             "Error handling policy, report/ignore/enospc/stop/auto"),
        disk_detail::inner_field<&ScsiBlock::disk_, &DiskProperties::werror>("werror",
                                                                             "Error handling policy, report/ignore/enospc/stop/auto"),
        field<&ScsiBlock::scsi_version_>("scsi_version", "Version of the command set; -1: as the device says.", {.min = -1, .max = 7}),
        field<&ScsiBlock::max_io_>("max_io_size", "Longest transfer, in bytes."),
        field<&ScsiBlock::max_unmap_>("max_unmap_size", "Accepted: the device tells."),
        field<&ScsiBlock::rotation_>("rotation_rate", "Accepted: the device tells."),
    };
constinit const TypeInfo ScsiBlock::type{.name = "scsi-block",
                                         .doc = "SCSI block device passthrough",
                                         .parent = &ScsiDevice::type,
                                         .properties = properties,
                                         .make = make<ScsiBlock>,
                                         .category = "Storage devices"};
static Registered registered_block{ScsiBlock::type};

class ScsiGeneric final : public ScsiPassed {
 public:
  static const TypeInfo type;

 private:
  Result<> may_have(const block::Backend::Options& options) const override {
    using block::ErrorPolicy;
    if (options.read_error != ErrorPolicy::automatic && options.read_error != ErrorPolicy::report)
      return fail("Device doesn't support drive option rerror");
    if (options.write_error == ErrorPolicy::stop || options.write_error == ErrorPolicy::ignore)
      return fail("Device doesn't support drive option werror");
    return {};
  }
  static const std::array<Field, passed_field_count> properties;
};

constexpr std::array<Field, ScsiPassed::passed_field_count> ScsiGeneric::properties = ScsiPassed::passed_fields();
constinit const TypeInfo ScsiGeneric::type{.name = "scsi-generic",
                                           .doc = "pass through generic scsi device (/dev/sg*)",
                                           .parent = &ScsiDevice::type,
                                           .properties = properties,
                                           .make = make<ScsiGeneric>,
                                           .category = "Storage devices"};
static Registered registered_generic{ScsiGeneric::type};

}  // namespace vmm::hw
