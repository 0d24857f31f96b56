// file and host_device: open(2), preadv(2), pwritev2(2), fallocate(2), lseek(2) SEEK_DATA, ioctl_list(2) BLK*.
#include "block/file/file.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include <algorithm>

#include "block/core/scsi_host.h"
#include "block/file/lock.h"
#include "src/base/host.h"
#include "src/event/worker_pool.h"
#include "src/io/fd_set.h"

namespace vmm::block {
namespace {

enum class Aio : u8 { threads, native, io_uring };
enum class Locking : u8 { automatic, on, off };
struct FileOptions {
  std::string filename;
  std::optional<Aio> aio;
  std::optional<Locking> locking;
  std::optional<bool> drop_cache;
};
struct FileCreateOptions {
  std::optional<Preallocation> preallocation;
  std::optional<bool> nocow;
  std::optional<Bytes64> extent_size_hint;
};
}  // namespace
}  // namespace vmm::block

namespace vmm {
template <>
inline constexpr std::array enum_names<block::Aio> = {EnumNameOf<block::Aio>{block::Aio::threads, "threads"},
                                                      EnumNameOf<block::Aio>{block::Aio::native, "native"},
                                                      EnumNameOf<block::Aio>{block::Aio::io_uring, "io_uring"}};
template <>
inline constexpr std::array enum_names<block::Locking> = {EnumNameOf<block::Locking>{block::Locking::automatic, "auto"},
                                                          EnumNameOf<block::Locking>{block::Locking::on, "on"},
                                                          EnumNameOf<block::Locking>{block::Locking::off, "off"}};
template <>
inline constexpr std::array fields<block::FileOptions> = {
    field<&block::FileOptions::filename>("filename", "Path of the file, or /dev/fdset/N."),
    field<&block::FileOptions::aio>("aio", "How host calls are made: threads, native, io_uring."),
    field<&block::FileOptions::locking>("locking", "Lock the file against other users: auto, on, off."),
    field<&block::FileOptions::drop_cache>("drop-cache", "Drop the page cache before a migration's end."),
};
template <>
inline constexpr std::array fields<block::FileCreateOptions> = {
    field<&block::FileCreateOptions::extent_size_hint>("extent_size_hint", "Extent size hint for the image file, 0 to disable"),
    field<&block::FileCreateOptions::preallocation>("preallocation", "Preallocation mode (allowed values: off, falloc, full)"),
    field<&block::FileCreateOptions::nocow>("nocow", "Turn off copy-on-write (valid only on btrfs)"),
};
}  // namespace vmm

namespace vmm::block {
namespace {

// Host calls that are no transfer, on a worker.
template <class F>
Task<> host_call(EventLoop& loop, F call) {
  return worker_pool().run<void>(loop, [call]() -> Result<> {
    for (;;) {
      if (call() == 0) return {};
      if (errno != EINTR) return fail_os(errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL || errno == ENODEV ? ENOTSUP : errno);
    }
  });
}

Result<> preallocate(int fd, u64 from, u64 to, Preallocation mode) {
  if (from >= to) return {};
  if (mode == Preallocation::falloc) {
    const int error = ::posix_fallocate(fd, off_t(from), off_t(to - from));
    if (error) return fail_os(error, "Could not preallocate data for the new file");
  }
  if (mode == Preallocation::full) {
    Buffer zeros{1 * MiB};
    std::memset(zeros.data(), 0, zeros.size());
    for (u64 at = from; at < to;) {
      const ssize_t n = ::pwrite(fd, zeros.data(), std::min<u64>(zeros.size(), to - at), off_t(at));
      if (n < 0 && errno != EINTR) return fail_os(errno, "Could not write zeros for preallocation");
      if (n > 0) at += u64(n);
    }
    if (::fsync(fd)) return fail_os(errno, "Could not flush file to disk");
  }
  return {};
}

// Whether a ring's write into the page cache ends within its submission. Source: the users of Linux's FOP_BUFFER_WASYNC.
bool cached_writes_end_at_once(int fd, bool device) {
  struct statfs where;
  return device || (::fstatfs(fd, &where) == 0 && (where.f_type == XFS_SUPER_MAGIC || where.f_type == BTRFS_SUPER_MAGIC));
}

class File final : public BlockNode, public ScsiHost {
 public:
  Task<> open(Value options) override;
  Task<> close() override {
    fd_.reset();
    co_return Result<>{};
  }
  Task<> read(u64 offset, IoVector into) override { return engine_->read(loop(), fd_.get(), offset, std::move(into)); }
  Task<> write(u64 offset, IoVector from, WriteFlags flags) override {
    const u64 end = offset + from.size();
    // A ring's write that cannot end at once goes to a worker of the kernel's: round the page cache, and on most file systems into it. A
    // single one is up to several times faster as a plain call of a thread of ours (docs/performance.md). Where more are under way the ring
    // wins.
    struct Count {
      std::atomic<u32>& writes;
      const bool alone = writes.fetch_add(1, std::memory_order_relaxed) == 0;
      ~Count() { writes.fetch_sub(1, std::memory_order_relaxed); }
    } count{writes_};
    FileEngine& engine = count.alone && lone_writes_by_thread_ ? thread_engine() : *engine_;
    co_await engine.write(loop(), fd_.get(), offset, std::move(from), flags.fua);
    if (end > length_) length_ = end;
    co_return Result<>{};
  }
  Task<> flush() override;
  Task<> zero(u64 offset, u64 length, ZeroFlags flags) override;
  Task<> discard(u64 offset, u64 length) override {
    const int fd = fd_.get();
    if (device_) {
      co_return co_await host_call(loop(), [=] {
        u64 range[2] = {offset, length};
        return ::ioctl(fd, BLKDISCARD, range);
      });
    }
    co_return co_await host_call(loop(),
                                 [=] { return ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off_t(offset), off_t(length)); });
  }
  Task<Extent> map(u64 offset, u64 length) override;
  Task<> truncate(u64 length, Preallocation mode) override;
  u64 length_bytes() const override { return length_; }
  bool grows() const override { return !device_; }
  Limits limits() const override { return limits_; }
  std::string filename() const override { return filename_; }
  Task<> reopen(const NodeOptions& wanted) override {
    if (wanted.read_only == read_only()) co_return Result<>{};
    if (!filename_.starts_with("/dev/fdset/") && !wanted.read_only) {
      const int flags = (wanted.read_only ? O_RDONLY : O_RDWR) | O_NONBLOCK | (options().cache_direct ? O_DIRECT : 0);
      auto fd = io::open_file(filename_, flags);
      if (!fd) co_return std::unexpected(std::move(fd).error());
      struct stat before, now;
      if (::fstat(fd_.get(), &before) || ::fstat(fd->get(), &now) || before.st_dev != now.st_dev || before.st_ino != now.st_ino)
        co_return fail("'{}' is another file than the one that is open", filename_);
      // The old descriptor's locks go with it; who uses the node takes them anew.
      FileLock lock;
      fd_ = std::move(*fd);
      std::swap(lock_, lock);
      sync_failed_ = 0;
      auto locked = permissions_changed(needs_now_, shares_now_);
      if (!locked) co_return locked;
    }
    set_read_only(wanted.read_only);
    co_return Result<>{};
  }
  Result<> permissions_changed(u8 needs, u8 shares) override {
    needs_now_ = needs, shares_now_ = shares;
    if (locking_ == Locking::off || !fd_) return {};
    const u8 unshared = options().force_share || inactive() ? 0 : ~shares & permit_all;
    return lock_.set(fd_.get(), filename_, inactive() ? needs & permit_read : needs, unshared, locking_ == Locking::automatic);
  }
  Task<> inactivate() override {
    if (read_only() || options().cache_no_flush) co_return Result<>{};
    co_return co_await flush();
  }
  // Another has written to it, perhaps on another host: neither its length nor what this host's cache holds of it is as before.
  Task<> activate() override {
    struct stat s;
    u64 bytes = 0;
    if (character_) co_return Result<>{};
    if (device_ ? ::ioctl(fd_.get(), BLKGETSIZE64, &bytes) : ::fstat(fd_.get(), &s))
      co_return fail_os(errno, format("Could not look at '{}'", filename_));
    length_ = device_ ? bytes : u64(s.st_size);
    if (drop_cache_) (void)::posix_fadvise(fd_.get(), 0, 0, POSIX_FADV_DONTNEED);
    co_return Result<>{};
  }
  Task<u64> allocated_bytes() override {
    struct stat s;
    co_return ::fstat(fd_.get(), &s) ? 0 : u64(s.st_blocks) * 512;
  }
  int scsi_ioctl(unsigned long request, void* argument) override {
    if (device_) return ::ioctl(fd_.get(), request, argument);
    errno = ENOTTY;
    return -1;
  }
  u64 scsi_most_bytes() override;

 private:
  void find_limits();
  std::string filename_;
  Fd fd_;
  FileEngine* engine_ = &thread_engine();
  Locking locking_ = Locking::automatic;
  FileLock lock_;
  u8 needs_now_ = 0, shares_now_ = permit_all;
  u64 length_ = 0;
  std::atomic<u32> writes_{0};  // under way
  bool device_ = false, character_ = false, lone_writes_by_thread_ = false, drop_cache_ = true;
  int sync_failed_ = 0;  // errno of the first failed fsync: what it lost cannot be told, so no later one may succeed
  Limits limits_;
};

Task<> File::open(Value options) {
  FileOptions o;
  if (auto ok = assign_fields(&o, fields<FileOptions>, options); !ok) co_return std::unexpected(std::move(ok).error());
  filename_ = o.filename;
  locking_ = o.locking.value_or(Locking::automatic);
  drop_cache_ = o.drop_cache.value_or(true);
  const Aio aio = o.aio.value_or(uring_works() ? Aio::io_uring : Aio::threads);
  if (aio == Aio::io_uring && !uring_works())
    co_return fail("aio=io_uring was specified, but this host does not offer io_uring; use aio=threads");
  if (aio == Aio::native && !this->options().cache_direct)
    co_return fail("aio=native was specified, but it requires cache.direct=on, which was not specified.");
  engine_ = aio == Aio::io_uring ? &uring_engine() : aio == Aio::native ? &native_engine() : &thread_engine();
  const int flags = (read_only() ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | (this->options().cache_direct ? O_DIRECT : 0);
  auto fd = io::open_file(filename_, flags);
  if (!fd && !read_only() && this->options().auto_read_only) {
    if (auto second = io::open_file(filename_, (flags & ~O_ACCMODE) | O_RDONLY)) {
      fd = std::move(second);
      set_read_only(true);
    }
  }
  if (!fd) co_return std::unexpected(std::move(fd).error());
  fd_ = std::move(*fd);
  struct stat s;
  if (::fstat(fd_.get(), &s)) co_return fail_os(errno, format("Could not look at '{}'", filename_));
  if (S_ISDIR(s.st_mode)) co_return fail_os(EISDIR, format("Could not open '{}'", filename_));
  device_ = S_ISBLK(s.st_mode);
  if (S_ISCHR(s.st_mode)) {  // /dev/sgN: a SCSI device that is no disk, or a disk's other name; without a length
    device_ = character_ = true;
    if (auto found = find_scsi_device(*this); !found) {
      device_ = character_ = false;
      if (driver().name == "host_device") co_return fail("'{}': {}", filename_, found.error().message);
    }
  }
  if (!device_ && !S_ISREG(s.st_mode)) co_return fail("'{}' driver requires '{}' to be a regular file", driver().name, filename_);
  if (device_ != (driver().name == "host_device")) {
    if (!device_) co_return fail("'host_device' driver requires '{}' to be either a character or block device", filename_);
  }
  lone_writes_by_thread_ = !o.aio && (this->options().cache_direct || !cached_writes_end_at_once(fd_.get(), device_));
  if (character_) {
    length_ = 0;
  } else if (device_) {
    u64 bytes = 0;
    if (::ioctl(fd_.get(), BLKGETSIZE64, &bytes)) co_return fail_os(errno, format("Could not find the size of '{}'", filename_));
    length_ = bytes;
  } else {
    length_ = u64(s.st_size);
  }
  find_limits();
  co_return Result<>{};
}

void File::find_limits() {
  limits_.fua = true;
  limits_.max_transfer = 1 * GiB;
  struct statx x;
  if (!::statx(fd_.get(), "", AT_EMPTY_PATH, STATX_BASIC_STATS, &x)) limits_.discard_granularity = device_ ? 0 : x.stx_blksize;
  if (!options().cache_direct) return;
  limits_.request_alignment = limits_.memory_alignment = 4096;
  if (device_) {
    int sector = 512;
    if (!::ioctl(fd_.get(), BLKSSZGET, &sector) && sector >= 512) limits_.request_alignment = u32(sector);
    limits_.memory_alignment = limits_.request_alignment;
    return;
  }
  // What the file system takes is found by trying: the smallest read that works.
  alignas(4096) static u8 probe[4096];
  for (u32 unit : {512u, 1024u, 2048u, 4096u}) {
    if (::pread(fd_.get(), probe, unit, 0) >= 0 || errno != EINVAL) {
      limits_.request_alignment = limits_.memory_alignment = unit;
      break;
    }
  }
}

// What the request queue takes at once: its bytes, and its segments where every page is one.
u64 File::scsi_most_bytes() {
  if (character_) {
    int bytes = 0;
    return ::ioctl(fd_.get(), BLKSECTGET, &bytes) || bytes < 0 ? 0 : u64(bytes);
  }
  unsigned short sectors = 0;
  struct stat s;
  if (!device_ || ::ioctl(fd_.get(), BLKSECTGET, &sectors) || ::fstat(fd_.get(), &s)) return 0;
  u64 most = u64{sectors} * 512;
  const Fd queue{host::open_file(format("/sys/dev/block/{}:{}/queue/max_segments", major(s.st_rdev), minor(s.st_rdev)), O_RDONLY)};
  char text[16] = {};
  if (queue && ::read(queue.get(), text, sizeof text - 1) > 0)
    if (const u64 segments = std::strtoull(text, nullptr, 10); segments) most = std::min(most, segments * 4096);
  return most;
}

Task<> File::flush() {
  if (sync_failed_)
    co_return fail_os(sync_failed_,
                      format("{}: an earlier flush failed; what it lost is not known until the image is reopened", filename_));
  auto done = co_await attempt(engine_->sync(loop(), fd_.get()));
  if (!done && error_number(done.error()) != EINVAL && error_number(done.error()) != EROFS) {
    sync_failed_ = error_number(done.error());
    co_return std::unexpected(std::move(done).error());
  }
  co_return Result<>{};
}

Task<> File::zero(u64 offset, u64 length, ZeroFlags flags) {
  const int fd = fd_.get();
  if (device_) {
    co_await host_call(loop(), [=] {
      u64 range[2] = {offset, length};
      return ::ioctl(fd, BLKZEROOUT, range);
    });
  } else {
    const bool grows = offset + length > length_;
    Result<> done = fail_os(ENOTSUP);
    if (flags.may_unmap && !grows)
      done = co_await attempt(
          host_call(loop(), [=] { return ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off_t(offset), off_t(length)); }));
    if (!done) {
      done = co_await attempt(host_call(loop(), [=] { return ::fallocate(fd, FALLOC_FL_ZERO_RANGE, off_t(offset), off_t(length)); }));
      if (!done && os_error_of(done.error()) == ENOTSUP && !flags.may_unmap && !grows) {
        // No zeroing in place here (tmpfs): a hole, filled again, is the same.
        done = co_await attempt(
            host_call(loop(), [=] { return ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off_t(offset), off_t(length)); }));
        if (done) done = co_await attempt(host_call(loop(), [=] { return ::fallocate(fd, 0, off_t(offset), off_t(length)); }));
      }
      if (!done && os_error_of(done.error()) == ENOTSUP && offset >= length_) {
        // Past the end a file is zero by growing.
        done = co_await attempt(host_call(loop(), [=] { return ::ftruncate(fd, off_t(offset + length)); }));
      }
    }
    if (!done) co_return std::unexpected(std::move(done).error());
    if (grows) length_ = std::max(length_, offset + length);
  }
  if (flags.fua) co_await flush();
  co_return Result<>{};
}

Task<Extent> File::map(u64 offset, u64 length) {
  Extent e{.kind = Extent::Kind::data, .length = length, .host_offset = offset, .has_host_offset = true};
  if (device_) co_return e;
  const off_t data = ::lseek(fd_.get(), off_t(offset), SEEK_DATA);
  if (data < 0) {
    if (errno != ENXIO) co_return e;  // no holes here, or none that the file system tells
    e.kind = Extent::Kind::zero, e.present = false;
    co_return e;
  }
  if (u64(data) > offset) {
    e.kind = Extent::Kind::zero, e.present = false;
    e.length = std::min(length, u64(data) - offset);
    co_return e;
  }
  const off_t hole = ::lseek(fd_.get(), off_t(offset), SEEK_HOLE);
  if (hole > off_t(offset)) e.length = std::min(length, u64(hole) - offset);
  co_return e;
}

Task<> File::truncate(u64 length, Preallocation mode) {
  if (device_) {
    if (length == length_) co_return Result<>{};
    if (length > length_) co_return fail_os(ENOTSUP, "Cannot grow device files");
    co_return fail_os(ENOTSUP, "Cannot resize device files");
  }
  if (mode == Preallocation::metadata) co_return fail_os(ENOTSUP, "Unsupported preallocation mode 'metadata'");
  if (mode != Preallocation::off && length < length_) co_return fail_os(ENOTSUP, "Preallocation can't be used for shrinking files");
  const int fd = fd_.get();
  const u64 before = length_;
  co_await worker_pool().run<void>(loop(), [=]() -> Result<> {
    if (::ftruncate(fd, off_t(length))) return fail_os(errno, "Failed to resize the file");
    auto done = preallocate(fd, before, length, mode);
    if (!done) [[maybe_unused]]
      int back = ::ftruncate(fd, off_t(before));
    return done;
  });
  length_ = length;
  co_return Result<>{};
}

// Hints that some file systems know (FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR): they come before the first byte, and who does not know them is
// none the worse.
void hint(int fd, bool nocow, u64 extent_bytes) {
  if (int flags = 0; nocow && !::ioctl(fd, FS_IOC_GETFLAGS, &flags)) {
    flags |= FS_NOCOW_FL;
    (void)::ioctl(fd, FS_IOC_SETFLAGS, &flags);
  }
  if (fsxattr x{}; extent_bytes && extent_bytes <= ~u32{0} && !::ioctl(fd, FS_IOC_FSGETXATTR, &x)) {
    x.fsx_xflags |= FS_XFLAG_EXTSIZE, x.fsx_extsize = static_cast<u32>(extent_bytes);
    (void)::ioctl(fd, FS_IOC_FSSETXATTR, &x);
  }
}

Task<> create_file(EventLoop& loop, std::string filename, CreateOptions options) {
  FileCreateOptions o;
  if (auto ok = assign_fields(&o, fields<FileCreateOptions>, options.options); !ok) co_return std::unexpected(std::move(ok).error());
  const u64 length = options.length_bytes;
  const Preallocation mode = o.preallocation.value_or(Preallocation::off);
  if (mode == Preallocation::metadata) co_return fail("Unsupported preallocation mode 'metadata'");
  co_await worker_pool().run<void>(loop, [=]() -> Result<> {
    Fd fd{host::open_file(filename, O_RDWR | O_CREAT, 0644)};
    if (!fd) return fail_os(errno, format("Could not create '{}'", filename));
    struct stat s;
    if (!::fstat(fd.get(), &s) && S_ISBLK(s.st_mode)) return {};
    if (::ftruncate(fd.get(), 0)) return fail_os(errno, format("{}: Could not resize file", filename));
    hint(fd.get(), o.nocow.value_or(false), o.extent_size_hint.value_or(Bytes64{}));
    if (::ftruncate(fd.get(), off_t(length))) return fail_os(errno, format("{}: Could not resize file", filename));
    return preallocate(fd.get(), 0, length, mode);
  });
  co_return Result<>{};
}

constexpr std::string_view file_prefixes[] = {"file"}, device_prefixes[] = {"host_device"};
RegisteredDriver file{{.name = "file",
                       .doc = "A file of the host.",
                       .kind = BlockDriver::Kind::protocol,
                       .options = fields<FileOptions>,
                       .make = make_node<File>,
                       .prefixes = file_prefixes,
                       .create_options = fields<FileCreateOptions>,
                       .create_file = create_file}};
RegisteredDriver host_device{{.name = "host_device",
                              .doc = "A block device of the host.",
                              .kind = BlockDriver::Kind::protocol,
                              .options = fields<FileOptions>,
                              .make = make_node<File>,
                              .prefixes = device_prefixes,
                              .create_options = fields<FileCreateOptions>,
                              .create_file = create_file}};

}  // namespace
}  // namespace vmm::block
