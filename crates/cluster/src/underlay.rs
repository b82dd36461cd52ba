//! The network that connects sandboxed nodes with the host: a bridge with one veth pair for each node.

use std::net::Ipv4Addr;

use futures::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::sandbox::NodeSpec;

/// The underlay could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The netlink socket could not be opened.
    #[error("cannot open a netlink socket")]
    Open(#[source] std::io::Error),
    /// The kernel refused a change.
    #[error("{operation} {link} failed")]
    Netlink {
        /// What was tried.
        operation: &'static str,
        /// The link or address.
        link: String,
        /// The cause.
        #[source]
        source: Box<rtnetlink::Error>,
    },
    /// A link is missing.
    #[error("link {0} does not exist")]
    Missing(String),
}

/// What the kernel answers when a link does not exist, and when something exists already.
const NO_DEVICE: i32 = -(nix::errno::Errno::ENODEV as i32);
const EXISTS: i32 = -(nix::errno::Errno::EEXIST as i32);

/// The bridge of one cluster.
#[derive(Clone, Debug)]
pub struct Underlay {
    /// The bridge's name.
    pub bridge: String,
    /// The nodes' network; its first address is the host's.
    pub network: Ipv4Net,
}

fn netlink(operation: &'static str, link: &str) -> impl FnOnce(rtnetlink::Error) -> Error {
    let link = link.to_owned();
    move |source| Error::Netlink {
        operation,
        link,
        source: Box::new(source),
    }
}

/// Runs `work` with a netlink handle, whose connection ends with it.
async fn with_handle<T>(work: impl AsyncFnOnce(Handle) -> Result<T, Error>) -> Result<T, Error> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::Open)?;
    let connection = tokio::spawn(connection);
    let result = work(handle).await;
    connection.abort();
    result
}

async fn index(handle: &Handle, name: &str) -> Result<Option<u32>, Error> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    match links.try_next().await {
        Ok(link) => Ok(link.map(|link| link.header.index)),
        Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == NO_DEVICE => Ok(None),
        Err(error) => Err(netlink("look up", name)(error)),
    }
}

async fn existing(handle: &Handle, name: &str) -> Result<u32, Error> {
    index(handle, name)
        .await?
        .ok_or_else(|| Error::Missing(name.to_owned()))
}

async fn add_address(handle: &Handle, name: &str, address: Ipv4Addr, prefix: u8) -> Result<(), Error> {
    let index = existing(handle, name).await?;
    match handle
        .address()
        .add(index, address.into(), prefix)
        .execute()
        .await
    {
        Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == EXISTS => Ok(()),
        result => result.map_err(netlink("add an address to", name)),
    }
}

/// Takes an address off loopback, if it is there.
pub(crate) async fn remove_loopback_address(address: Ipv4Addr) -> Result<(), Error> {
    with_handle(async |handle| {
        let index = existing(&handle, "lo").await?;
        let filter = handle
            .address()
            .get()
            .set_link_index_filter(index)
            .set_address_filter(address.into());
        let mut found = filter.execute();
        while let Some(message) = found
            .try_next()
            .await
            .map_err(netlink("list addresses of", "lo"))?
        {
            handle
                .address()
                .del(message)
                .execute()
                .await
                .map_err(netlink("remove an address from", "lo"))?;
        }
        Ok(())
    })
    .await
}

async fn set_up(handle: &Handle, name: &str) -> Result<(), Error> {
    let index = existing(handle, name).await?;
    let up = LinkUnspec::new_with_index(index).up().build();
    handle
        .link()
        .set(up)
        .execute()
        .await
        .map_err(netlink("set up", name))
}

async fn delete(handle: &Handle, name: &str) -> Result<(), Error> {
    match index(handle, name).await? {
        Some(index) => match handle.link().del(index).execute().await {
            // It went with its peer meanwhile.
            Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == NO_DEVICE => Ok(()),
            result => result.map_err(netlink("delete", name)),
        },
        None => Ok(()),
    }
}

impl Underlay {
    /// The host's address.
    pub fn gateway(&self) -> Ipv4Addr {
        self.network.hosts().next().unwrap_or(self.network.addr())
    }

    /// The address of the sandboxed node with this number, counted from 0.
    pub fn address(&self, number: usize) -> Option<Ipv4Addr> {
        self.network.hosts().nth(number + 1)
    }

    /// Makes the bridge with the host's address, if it is not there.
    pub async fn ensure(&self) -> Result<(), Error> {
        with_handle(async |handle| {
            if index(&handle, &self.bridge).await?.is_none() {
                let bridge = LinkBridge::new(&self.bridge).build();
                handle
                    .link()
                    .add(bridge)
                    .execute()
                    .await
                    .map_err(netlink("add bridge", &self.bridge))?;
            }
            add_address(&handle, &self.bridge, self.gateway(), self.network.prefix_len()).await?;
            set_up(&handle, &self.bridge).await
        })
        .await
    }

    /// Removes the bridge.
    pub async fn remove(&self) -> Result<(), Error> {
        with_handle(async |handle| delete(&handle, &self.bridge).await).await
    }

    /// Makes a veth pair: `link` on the bridge, the other end as `eth0` in the network namespace of process `pid`.
    pub(crate) async fn connect(&self, link: &str, pid: i32) -> Result<(), Error> {
        with_handle(async |handle| {
            delete(&handle, link).await?;
            let bridge = existing(&handle, &self.bridge).await?;
            let peer = format!("{link}p");
            let pair = LinkVeth::new(link, &peer).build();
            handle
                .link()
                .add(pair)
                .execute()
                .await
                .map_err(netlink("add veth", link))?;
            let host = existing(&handle, link).await?;
            let attach = LinkUnspec::new_with_index(host).controller(bridge).up().build();
            handle
                .link()
                .set(attach)
                .execute()
                .await
                .map_err(netlink("attach", link))?;
            let inner = existing(&handle, &peer).await?;
            let mut moved = LinkUnspec::new_with_index(inner).build();
            moved.attributes.push(LinkAttribute::NetNsPid(pid.unsigned_abs()));
            moved.attributes.push(LinkAttribute::IfName("eth0".into()));
            handle
                .link()
                .set(moved)
                .execute()
                .await
                .map_err(netlink("move", &peer))
        })
        .await
    }

    /// Removes a node's link, if it is there.
    pub(crate) async fn disconnect(&self, link: &str) -> Result<(), Error> {
        with_handle(async |handle| delete(&handle, link).await).await
    }
}

/// Inside a node: loopback, the node's address and its default route.
pub(crate) async fn configure_inside(spec: &NodeSpec) -> Result<(), Error> {
    with_handle(async |handle| {
        set_up(&handle, "lo").await?;
        add_address(&handle, "eth0", spec.address, spec.prefix).await?;
        set_up(&handle, "eth0").await?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(spec.gateway)
            .build();
        handle
            .route()
            .add(route)
            .execute()
            .await
            .map_err(netlink("add the default route by", "eth0"))
    })
    .await
}
