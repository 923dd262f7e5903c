import trio
import rpcnet

@rpcnet.service
class Greeter:
    @rpcnet.rpc
    async def hello(self, name: str) -> str:
        return f"Hello, {name}!"

async def main() -> None:
    async with rpcnet.Node("a", services=[Greeter()]) as a:
        async with rpcnet.Node("b", seeds=[a.address]) as b:
            print(await b.stub(Greeter).hello("world"))

trio.run(main)
