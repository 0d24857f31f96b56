// filter-dump: what passes a back end, into a file that packet analysers read. Source: the pcap file format (pcap-savefile(5)).
#include <fcntl.h>
#include <sys/uio.h>
#include <time.h>

#include <algorithm>

#include "net/net.h"
#include "src/base/log.h"
#include "src/io/fd_set.h"

namespace vmm::net {

namespace {

class FilterDump final : public Object, public Tap {
 public:
  static const TypeInfo type;
  ~FilterDump() override {
    if (!target_) return;
    for (unsigned i = 0; i < target_->queues(); i++) target_->queue(i).remove_tap(*this);
  }
  Result<> complete() override;
  void passed(const Packet& packet, bool from_this_end) override;

 private:
  static const Field properties[6];
  std::string netdev_, file_, queue_ = "all", position_ = "tail", insert_ = "behind";
  u32 longest_ = 65536;
  Ref<Netdev> target_;
  Fd fd_;
};
constexpr Field FilterDump::properties[6] = {
    field<&FilterDump::netdev_>("netdev", "Id of the back end."),
    field<&FilterDump::file_>("file", "File to write."),
    field<&FilterDump::longest_>("maxlen", "Most bytes of a packet.", {.min = 1, .max = 262144}),
    field<&FilterDump::queue_>("queue", "all, rx (to the card's back end) or tx (from it)."),
    field<&FilterDump::position_>("position", "Place among filters; this one changes nothing, so it does not matter."),
    field<&FilterDump::insert_>("insert", "The same."),
};
constinit const TypeInfo FilterDump::type{.name = "filter-dump",
                                          .doc = "Writes what passes a network back end to a pcap file.",
                                          .parent = &Object::type,
                                          .properties = properties,
                                          .make = make<FilterDump>};
const Registered registered{FilterDump::type};

struct FileHeader {
  u32 magic = 0xa1b2c3d4;
  u16 major = 2, minor = 4;
  u32 zone = 0, accuracy = 0, longest = 0, link = 1;  // Ethernet
};
struct PacketHeader {
  u32 seconds = 0, microseconds = 0, kept = 0, length = 0;
};

Result<> FilterDump::complete() {
  if (netdev_.empty()) return fail("Parameter 'netdev' is required");
  if (file_.empty()) return fail("dump filter needs 'file' property set!");
  if (queue_ != "all" && queue_ != "rx" && queue_ != "tx") return fail("'queue' takes all, rx or tx, not '{}'", queue_);
  Netdev* netdev = find_netdev(netdev_);
  if (!netdev) return fail("Parameter 'netdev' expects a network backend id");
  fd_ = TRY(io::open_file(file_, O_WRONLY | O_CREAT | O_TRUNC, 0644));
  const FileHeader header{.longest = longest_};
  if (::write(fd_.get(), &header, sizeof header) != sizeof header) return fail_errno(format("cannot write '{}'", file_));
  target_ = Ref<Netdev>{netdev};
  for (unsigned i = 0; i < netdev->queues(); i++) netdev->queue(i).add_tap(*this);
  return {};
}

void FilterDump::passed(const Packet& packet, bool from_this_end) {
  // `tx` is what the back end takes from the card to send.
  if (!fd_ || (queue_ == "rx" && !from_this_end) || (queue_ == "tx" && from_this_end)) return;
  timespec now;
  ::clock_gettime(CLOCK_REALTIME, &now);
  const usize size = packet.size();
  usize left = std::min<usize>(size, longest_);
  PacketHeader header{static_cast<u32>(now.tv_sec), static_cast<u32>(now.tv_nsec / 1000), static_cast<u32>(left), static_cast<u32>(size)};
  std::array<iovec, 64> parts;
  parts[0] = {&header, sizeof header};
  usize used = 1, wanted = sizeof header;
  std::vector<u8> flat;
  if (packet.parts.size() < parts.size()) {
    for (const iovec& p : packet.parts) {
      if (!left) break;
      parts[used] = {p.iov_base, std::min(left, p.iov_len)};
      left -= parts[used].iov_len, wanted += parts[used].iov_len;
      used++;
    }
  } else {
    flat.resize(left);
    packet.copy_to(flat);
    parts[used++] = {flat.data(), flat.size()};
    wanted += flat.size();
  }
  if (::writev(fd_.get(), parts.data(), static_cast<int>(used)) == static_cast<ssize_t>(wanted)) return;
  report_warning(format("filter-dump: writing to '{}' failed; the dump ends here", file_));
  fd_.reset();
}

}  // namespace

}  // namespace vmm::net
