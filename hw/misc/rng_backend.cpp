// Sources of random bytes. rng-egd speaks the entropy gathering daemon's protocol (command 2: blocking read of up to 255 bytes).
#include "hw/misc/rng_backend.h"

#include <fcntl.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>

#include "src/base/host.h"
#include "src/base/log.h"
#include "src/chardev/chardev.h"

namespace vmm::hw {

static constexpr usize piece_limit = 4096;

constinit const TypeInfo RngBackend::type{
    .name = "rng-backend", .doc = "A source of random bytes for guests.", .parent = &Object::type, .user_creatable = false};
static Registered registered{RngBackend::type};

// --- rng-builtin: the host kernel's generator

namespace {
class RngBuiltin final : public RngBackend {
 public:
  static const TypeInfo type;
  void request(EventLoop&, usize most, std::function<void(std::span<const u8>)> done) override {
    std::array<u8, piece_limit> bytes;
    const usize wanted = std::min(most, bytes.size());
    usize have = 0;
    while (have < wanted) {
      const ssize_t n = getrandom(bytes.data() + have, wanted - have, 0);
      if (n < 0 && errno != EINTR) break;
      if (n > 0) have += static_cast<usize>(n);
    }
    done(std::span{bytes}.first(have));
  }
};
constinit const TypeInfo RngBuiltin::type{
    .name = "rng-builtin", .doc = "Random bytes from the host kernel.", .parent = &RngBackend::type, .make = make<RngBuiltin>};
Registered registered_builtin{RngBuiltin::type};

// --- rng-random: a file such as /dev/hwrng, which may take its time

class RngRandom final : public RngBackend {
 public:
  static const TypeInfo type;
  Result<> complete() override {
    fd_ = Fd{host::open_file(filename_, O_RDONLY | O_NONBLOCK)};
    if (!fd_) return fail_errno(format("Could not open '{}'", filename_));
    opened_ = true;
    return {};
  }
  void request(EventLoop& loop, usize most, std::function<void(std::span<const u8>)> done) override {
    most_ = std::min(most, piece_limit), done_ = std::move(done);
    if (!try_read()) watch_.start(loop, fd_.get(), EPOLLIN, [this](u32) { try_read(); });
  }
  void cancel() override { watch_.stop(), done_ = nullptr; }

 private:
  bool try_read() {
    std::array<u8, piece_limit> bytes;
    const ssize_t n = ::read(fd_.get(), bytes.data(), most_);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    watch_.stop();
    if (n <= 0) {  // a file that has ended gives nothing any more: the guest waits, as it does for slow hardware
      if (!std::exchange(reported_, true)) report_warning(format("rng-random: no more random bytes in '{}'", filename_));
      return true;
    }
    if (auto done = std::exchange(done_, nullptr)) done(std::span{bytes}.first(static_cast<usize>(n)));
    return true;
  }
  static const Field properties[1];
  std::string filename_ = "/dev/urandom";
  Fd fd_;
  FdWatch watch_;
  usize most_ = 0;
  bool reported_ = false;
  std::function<void(std::span<const u8>)> done_;
};
constexpr Field RngRandom::properties[1] = {field<&RngRandom::filename_>("filename", "File to read.")};
constinit const TypeInfo RngRandom::type{.name = "rng-random",
                                         .doc = "Random bytes from a file of the host.",
                                         .parent = &RngBackend::type,
                                         .properties = properties,
                                         .make = make<RngRandom>};
Registered registered_random{RngRandom::type};

// --- rng-egd: a daemon behind a chardev

class RngEgd final : public RngBackend, public CharFrontEnd {
 public:
  static const TypeInfo type;
  ~RngEgd() override {
    if (chardev_) chardev_->detach(*this);
  }
  Result<> complete() override {
    if (name_.empty()) return fail("Parameter 'chardev' is missing");
    Chardev* found = find_chardev(name_);
    if (!found) return fail("Device '{}' not found", name_);
    chardev_ = Ref<Chardev>{found};
    TRY(chardev_->attach(*this));
    opened_ = true;
    return {};
  }
  void request(EventLoop&, usize most, std::function<void(std::span<const u8>)> done) override {
    done_ = std::move(done);
    const u8 count = static_cast<u8>(std::min<usize>(most, 255));
    // What an earlier, cancelled request still brings serves this one.
    if (expected_ < count) {
      const u8 command[2] = {2, static_cast<u8>(count - expected_)};
      chardev_->write_all(command);
      expected_ = count;
    }
    chardev_->accept_input();
  }
  void cancel() override { done_ = nullptr; }
  usize can_receive() override { return done_ ? expected_ : 0; }
  void receive(std::span<const u8> bytes) override {
    expected_ -= std::min(expected_, bytes.size());
    if (auto done = std::exchange(done_, nullptr)) done(bytes);
  }

 private:
  static const Field properties[1];
  std::string name_;
  Ref<Chardev> chardev_;
  usize expected_ = 0;
  std::function<void(std::span<const u8>)> done_;
};
constexpr Field RngEgd::properties[1] = {field<&RngEgd::name_>("chardev", "ID of the chardev that leads to the daemon.")};
constinit const TypeInfo RngEgd::type{.name = "rng-egd",
                                      .doc = "Random bytes from an entropy gathering daemon.",
                                      .parent = &RngBackend::type,
                                      .properties = properties,
                                      .make = make<RngEgd>};
Registered registered_egd{RngEgd::type};
}  // namespace

Ref<RngBackend> make_default_rng() { return make_object<RngBuiltin>(); }

}  // namespace vmm::hw
