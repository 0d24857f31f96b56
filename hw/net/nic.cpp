#include "hw/net/nic.h"

#include "src/base/log.h"

namespace vmm::hw {

std::string NetCard::card_name() const {
  if (!device_) return {};
  if (!device_->id().empty()) return device_->id();
  // As QEMU names cards without an id: the model and a number among those of that model.
  unsigned number = 0;
  for (net::Card* c : net::all_cards()) {
    if (c == this) break;
    auto* other = dynamic_cast<NetCard*>(c);
    number += other && other->device_ && other->device_->id().empty() && other->model() == model();
  }
  return format("{}.{}", model(), number);
}
std::string_view NetCard::model() const { return device_ ? device_->type_info().name : std::string_view{}; }

Result<> NetCard::plug_in(Device& device, unsigned queues) {
  if (mac_ == net::Mac{}) mac_ = net::unused_mac();
  if (net::is_multicast(mac_.data())) report_warning(format("{}: {} is a multicast address", device.type_info().name, net::mac_text(mac_)));
  device_ = &device;
  for (unsigned i = 0; i < queues; i++) ends_.push_back(std::make_unique<CardEnd>(*this, i));
  if (!netdev_) return {};
  if (netdev_->queue(0).peer()) {
    Error error{format("Property '{}.netdev' can't take value '{}', it's in use", device.type_info().name, netdev_->id())};
    pull_out();
    return std::unexpected(std::move(error));
  }
  for (unsigned i = 0; i < std::min(queues, netdev_->queues()); i++) net::End::link(*ends_[i], netdev_->queue(i));
  return {};
}

void NetCard::pull_out() {
  for (auto& end : ends_) end->unlink();
  netdev_ = nullptr;
}

bool NetCard::CardEnd::receive(const net::Packet& packet) {
  if (!card_.device_ || !card_.device_->realized()) return true;
  if (!card_.device_->machine().run_state().running()) return false;  // go_on_after_stop() says when
  // What its buffers lead to may be the card itself: that is no memory.
  const memory::InsideDevice guard{card_.device_};
  return card_.card_receive(index_, packet);
}

// --- PCI

PciNic::PciNic(const PciIds& ids, std::string_view rom) : PciDevice(ids), default_rom_(rom) { romfile_ = rom; }

Result<> PciNic::realize_pci() {
  // The usual boot ROM may be absent from this host; one that the user names must be there.
  if (romfile_ == default_rom_ && !romfile_.empty() && !machine().find_firmware(romfile_)) {
    report_info(format("{}: no boot from the network without {} (Debian's package ipxe-qemu)", type_info().name, romfile_));
    romfile_.clear();
  }
  TRY(plug_in(*this));
  if (auto done = realize_nic(); !done) {
    pull_out();
    return done;
  }
  return {};
}

Task<> PciNic::unrealize_pci() {
  pull_out();
  stop_nic();
  co_return Result<>{};
}

void PciNic::run_soon() {
  if (std::exchange(work_wanted_, true)) return;
  machine().main_loop().post([this, alive = alive_] {
    if (!*alive) return;
    work_wanted_ = false;
    if (!realized()) return;
    const memory::InsideDevice guard{this};
    work();
  });
}

constexpr Field PciNic::nic_properties[3] = {
    card_field<PciNic, &PciNic::mac_>("mac", "Its Ethernet address; absent: one that nobody has yet."),
    card_field<PciNic, &PciNic::netdev_>("netdev", "Id of the back end."),
    card_field<PciNic, &PciNic::boot_index_>("bootindex", "Place in the boot order."),
};
constinit const TypeInfo PciNic::type{
    .name = "pci-nic", .parent = &PciDevice::type, .properties = nic_properties, .category = "Network devices", .bus = "PCI"};
static Registered registered{PciNic::type};

}  // namespace vmm::hw
