// Control transfers packet by packet. Source: USB 2.0 §8.5.3, §9.3.
#include "hw/usb/control_pipe.h"

#include <algorithm>

#include "src/base/bits.h"

namespace vmm::hw {

UsbAnswer UsbControlPipe::setup(std::span<const u8> p) {
  if (p.size() != 8) return {UsbStatus::stall};
  setup_ = {.type = p[0], .request = p[1], .value = load_le<u16>(&p[2]), .index = load_le<u16>(&p[4]), .length = load_le<u16>(&p[6])};
  stage_ = Stage::begun;
  data_.clear();
  at_ = 0;
  return {UsbStatus::ok, 8};
}

UsbAnswer UsbControlPipe::ask(UsbDevice& device) {
  if (setup_.in()) data_.assign(std::min(setup_.length, most_bytes), 0);
  const UsbAnswer given = device.control(setup_, data_);
  if (given.status == UsbStatus::ok) {
    stage_ = Stage::answered;
    if (setup_.in()) data_.resize(std::min<usize>(given.bytes, data_.size()));
  } else if (given.status != UsbStatus::nak) {
    stage_ = Stage::idle;
  }
  return given;
}

UsbAnswer UsbControlPipe::in(UsbDevice& device, std::span<u8> data) {
  if (stage_ == Stage::idle) return {UsbStatus::stall};
  if (!setup_.in() || setup_.length == 0) {  // the status stage of an OUT transfer, or of one without data
    const UsbAnswer given = ask(device);
    if (given.status == UsbStatus::ok) stage_ = Stage::idle;
    return {given.status, 0};
  }
  if (stage_ == Stage::begun)
    if (const UsbAnswer given = ask(device); given.status != UsbStatus::ok) return {given.status, 0};
  const usize n = std::min(data.size(), data_.size() - at_);
  std::copy_n(data_.begin() + static_cast<std::ptrdiff_t>(at_), n, data.begin());
  at_ += n;
  return {UsbStatus::ok, static_cast<u32>(n)};
}

UsbAnswer UsbControlPipe::out(UsbDevice& device, std::span<const u8> data) {
  if (stage_ == Stage::idle) return {UsbStatus::stall};
  if (setup_.in()) {  // the status stage of an IN transfer
    stage_ = Stage::idle;
    return {};
  }
  if (data.size() > usize{std::min(setup_.length, most_bytes)} - data_.size()) {
    stage_ = Stage::idle;
    return {UsbStatus::stall};
  }
  data_.insert(data_.end(), data.begin(), data.end());
  return {UsbStatus::ok, static_cast<u32>(data.size())};
}

// --- State

std::vector<u64> UsbControlPipe::words() const {
  std::vector<u64> w{
      static_cast<u64>(stage_),
      u64{setup_.type} | u64{setup_.request} << 8 | u64{setup_.value} << 16 | u64{setup_.index} << 32 | u64{setup_.length} << 48, at_,
      data_.size()};
  w.insert(w.end(), data_.begin(), data_.end());
  return w;
}

Result<UsbControlPipe> UsbControlPipe::from_words(std::span<const u64> w) {
  if (w.size() < 4 || w[0] > 2 || w[3] > most_bytes || w.size() - 4 != w[3] || w[2] > w[3])
    return fail("a USB control transfer that cannot be");
  UsbControlPipe pipe;
  std::array<u8, 8> packet{};
  store_le<u64>(packet.data(), w[1]);
  pipe.setup(packet);
  pipe.stage_ = static_cast<Stage>(w[0]);
  pipe.at_ = w[2];
  for (const u64 byte : w.subspan(4)) pipe.data_.push_back(static_cast<u8>(byte));
  // Data of an OUT transfer is never longer than it was announced: the room left is computed from it.
  if (!pipe.setup_.in() && pipe.data_.size() > pipe.setup_.length) return fail("a USB control transfer with more data than it announced");
  return pipe;
}

std::vector<u64> UsbControlPipes::words() const {
  std::vector<u64> w;
  for (const auto& [address, pipe] : pipes_) {
    const std::vector<u64> one = pipe.words();
    w.push_back(address), w.push_back(one.size());
    w.insert(w.end(), one.begin(), one.end());
  }
  return w;
}

Result<> UsbControlPipes::set_words(std::span<const u64> w) {
  pipes_.clear();
  while (!w.empty()) {
    if (w.size() < 2 || w[0] > 127 || w[1] > w.size() - 2) return fail("the list of USB control transfers is cut short");
    pipes_[static_cast<u8>(w[0])] = TRY(UsbControlPipe::from_words(w.subspan(2, w[1])));
    w = w.subspan(2 + w[1]);
  }
  return {};
}

UsbDevice* usb_device_at(UsbDevice* root, u8 address) {
  if (!root || !root->realized()) return nullptr;
  if (root->address() == address) return root;
  for (unsigned n = 1; n <= 15; n++)
    if (UsbDevice* found = usb_device_at(root->downstream(n), address)) return found;
  return nullptr;
}

}  // namespace vmm::hw
