// Back ends without a protocol: null, file, pipe, ringbuf, and the two names that have no host end here.
#include <fcntl.h>

#include <bit>

#include "src/chardev/make.h"
#include "src/chardev/open.h"
#include "src/chardev/stream.h"

namespace vmm {

namespace {

struct NoOptions {
  std::optional<std::string> width, height, cols, rows;  // of vc
};

class NullChardev final : public Chardev {
 public:
  static const TypeInfo type;
  NullChardev() { open_ = true; }
  usize write(std::span<const u8> bytes) override { return log(bytes), bytes.size(); }
  std::string filename() const override { return filename_; }
  void set_filename(std::string_view name) { filename_ = name; }

 private:
  void update_input() override {}
  std::string filename_ = "null";
};
constinit const TypeInfo NullChardev::type{.name = "chardev-null",
                                           .doc = "Takes everything, gives nothing.",
                                           .parent = &Chardev::type,
                                           .make = make<NullChardev>,
                                           .user_creatable = false};

// --- ringbuf: the last bytes written, for ringbuf-read

struct RingbufOptions {
  std::optional<Bytes64> size;
};
class RingbufChardev final : public Chardev {
 public:
  static const TypeInfo type;
  RingbufChardev() { open_ = true; }
  void set_size(usize size) { data_.resize(size); }
  usize write(std::span<const u8> bytes) override {
    log(bytes);
    for (const u8 b : bytes) data_[end_++ & (data_.size() - 1)] = b;
    if (end_ - begin_ > data_.size()) begin_ = end_ - data_.size();
    return bytes.size();
  }
  std::string filename() const override { return "ringbuf"; }
  bool stores() const override { return true; }
  std::vector<u8> read_stored(usize most) override {
    std::vector<u8> out;
    while (begin_ != end_ && out.size() < most) out.push_back(data_[begin_++ & (data_.size() - 1)]);
    return out;
  }

 private:
  void update_input() override {}
  std::vector<u8> data_;
  u64 begin_ = 0, end_ = 0;
};
constinit const TypeInfo RingbufChardev::type{.name = "chardev-ringbuf",
                                              .doc = "Keeps the last bytes written.",
                                              .parent = &Chardev::type,
                                              .make = make<RingbufChardev>,
                                              .user_creatable = false};

Result<Ref<Chardev>> make_ringbuf(EventLoop&, const std::string&, const Value& value);
Result<Ref<Chardev>> make_file(EventLoop& loop, const std::string&, const Value& value);
Result<Ref<Chardev>> make_pipe(EventLoop& loop, const std::string&, const Value& value);
Result<Ref<Chardev>> make_device_file(EventLoop& loop, const std::string&, const Value& value);

// --- Files and pipes

struct FileOptions {
  std::optional<std::string> path, input_path;
  bool append = false;
};
struct PipeOptions {
  std::optional<std::string> path;
};

class FileChardev final : public StreamChardev {
 public:
  static const TypeInfo type;
  ~FileChardev() override { end(); }
  void open(EventLoop& loop, Fd in, Fd out, std::string_view name) {
    in_fd_ = std::move(in), out_fd_ = std::move(out), filename_ = name;
    open_ = true;
    use(loop, in_fd_.get(), out_fd_.get());
  }
  std::string filename() const override { return filename_; }

 private:
  Fd in_fd_, out_fd_;
  std::string filename_;
};
constinit const TypeInfo FileChardev::type{
    .name = "chardev-file", .doc = "Files and named pipes.", .parent = &Chardev::type, .make = make<FileChardev>, .user_creatable = false};

}  // namespace

template <>
inline constexpr std::array fields<NoOptions> = {
    field<&NoOptions::width>("width", "In pixels."),
    field<&NoOptions::height>("height", "In pixels."),
    field<&NoOptions::cols>("cols", "In characters."),
    field<&NoOptions::rows>("rows", "In characters."),
};
template <>
inline constexpr std::array fields<RingbufOptions> = {field<&RingbufOptions::size>("size", "Bytes kept; a power of two.")};
template <>
inline constexpr std::array fields<FileOptions> = {
    field<&FileOptions::path>("path", "File to write."),
    field<&FileOptions::input_path>("input-path", "File to read."),
    field<&FileOptions::append>("append", "Add to the file.", {.optional = true}),
};
template <>
inline constexpr std::array fields<PipeOptions> = {field<&PipeOptions::path>("path", "PATH.in and PATH.out, or a pipe for both ways.")};

namespace {

Result<Ref<Chardev>> make_ringbuf(EventLoop&, const std::string&, const Value& value) {
  const auto options = TRY(read_options<RingbufOptions>(value));
  const u64 size = options.size ? options.size->value : 64 * KiB;
  if (!std::has_single_bit(size)) return fail("size of ringbuf chardev must be power of two");
  if (size > 64 * MiB) return fail("size of ringbuf chardev is at most 64 MiB");
  auto chardev = make_object<RingbufChardev>();
  chardev->set_size(size);
  return Ref<Chardev>{chardev};
}

Result<Ref<Chardev>> make_file(EventLoop& loop, const std::string&, const Value& value) {
  const auto options = TRY(read_options<FileOptions>(value));
  if (!options.path || options.path->empty()) return std::unexpected(Error{"chardev: file: no filename given"}.with_hint("Add path=FILE"));
  Fd in, out = TRY(open_for_chardev(*options.path, O_WRONLY | O_CREAT | (options.append ? O_APPEND : O_TRUNC)));
  if (options.input_path) in = TRY(open_for_chardev(*options.input_path, O_RDONLY | O_NONBLOCK));
  auto chardev = make_object<FileChardev>();
  chardev->open(loop, std::move(in), std::move(out), "file");
  return Ref<Chardev>{chardev};
}

Result<Ref<Chardev>> make_pipe(EventLoop& loop, const std::string&, const Value& value) {
  const auto options = TRY(read_options<PipeOptions>(value));
  if (!options.path || options.path->empty()) return fail("chardev: pipe: no device path given");
  // Opened for both ways, so that opening does not wait for the other side and its going away is no end.
  auto in = open_for_chardev(*options.path + ".in", O_RDWR | O_NONBLOCK);
  auto out = open_for_chardev(*options.path + ".out", O_RDWR | O_NONBLOCK);
  auto chardev = make_object<FileChardev>();
  if (in && out) {
    chardev->open(loop, std::move(*in), std::move(*out), "pipe");
  } else {
    Fd both = TRY(open_for_chardev(*options.path, O_RDWR | O_NONBLOCK));
    Fd second{::fcntl(both.get(), F_DUPFD_CLOEXEC, 0)};
    chardev->open(loop, std::move(both), std::move(second), "pipe");
  }
  return Ref<Chardev>{chardev};
}

Result<Ref<Chardev>> make_device_file(EventLoop& loop, const std::string&, const Value& value) {
  const auto options = TRY(read_options<PipeOptions>(value));
  if (!options.path || options.path->empty()) return fail("chardev: serial/tty: no device path given");
  Fd both = TRY(open_for_chardev(*options.path, O_RDWR | O_NONBLOCK));
  Fd second{::fcntl(both.get(), F_DUPFD_CLOEXEC, 0)};
  auto chardev = make_object<FileChardev>();
  chardev->open(loop, std::move(both), std::move(second), "serial");
  return Ref<Chardev>{chardev};
}

template <int>
Result<Ref<Chardev>> make_null(EventLoop&, const std::string&, const Value& value) {
  TRY(read_options<NoOptions>(value));
  return Ref<Chardev>{make_object<NullChardev>()};
}
Result<Ref<Chardev>> make_vc(EventLoop&, const std::string&, const Value& value) {
  TRY(read_options<NoOptions>(value));
  auto chardev = make_object<NullChardev>();
  chardev->set_filename("vc");
  return Ref<Chardev>{chardev};
}

const Registered types[] = {Registered{NullChardev::type}, Registered{RingbufChardev::type}, Registered{FileChardev::type}};
const RegisteredChardev kind_null{{.name = "null", .doc = "nothing", .options = {}, .make = make_null<0>}};
const RegisteredChardev kind_vc{{.name = "vc", .doc = "text console of the window", .options = fields<NoOptions>, .make = make_vc}};
const RegisteredChardev kind_ringbuf{{.name = "ringbuf", .doc = "memory", .options = fields<RingbufOptions>, .make = make_ringbuf}};
const RegisteredChardev kind_memory{{.name = "memory", .doc = "memory", .options = fields<RingbufOptions>, .make = make_ringbuf}};
const RegisteredChardev kind_file{{.name = "file", .doc = "file", .options = fields<FileOptions>, .make = make_file}};
const RegisteredChardev kind_pipe{{.name = "pipe", .doc = "named pipes", .options = fields<PipeOptions>, .make = make_pipe}};
const RegisteredChardev kind_serial{{.name = "serial", .doc = "device file", .options = fields<PipeOptions>, .make = make_device_file}};

}  // namespace
}  // namespace vmm
